"""Runs commands without the rights of root, so that file permissions apply to them."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_CAPABILITIES = "-dac_override,-dac_read_search,-fowner"


def build_restricted_prefix() -> list[str]:
    """Return the start of a command that file permissions apply to.

    Skips the test if this machine cannot do it.
    """
    if sys.platform == "win32":
        pytest.skip("needs POSIX permissions")
    if os.getuid() != 0:
        return []
    if sys.platform != "linux" or not shutil.which("setpriv"):
        pytest.skip("root has all rights, and there is no setpriv to drop them")
    return ["setpriv", f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}"]


Deny = Callable[..., None]


@pytest.fixture
def deny(request: pytest.FixtureRequest) -> Deny:
    """Return a function that changes the mode of a file or folder until the test ends."""

    def change(path: Path, mode: int = 0) -> None:
        before = path.stat().st_mode & 0o7777
        request.addfinalizer(lambda: path.exists() and path.chmod(before))
        path.chmod(mode)

    return change
