"""Commands to which permissions are denied, also where the tests run as root."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_OVERRIDES = "-dac_override,-dac_read_search,-fowner"


def restricted() -> list[str]:
    """What to put before a command so that the permissions of files bind it. Skips where that cannot be had."""
    if sys.platform == "win32":
        pytest.skip("permissions of POSIX")
    if os.getuid() != 0:
        return []
    if sys.platform != "linux" or not shutil.which("setpriv"):
        pytest.skip("nothing is denied to root, and setpriv is not there to change that")
    return ["setpriv", f"--bounding-set={_OVERRIDES}", f"--inh-caps={_OVERRIDES}"]


Deny = Callable[..., None]


@pytest.fixture
def deny(request: pytest.FixtureRequest) -> Deny:
    """Changes the mode of a file or folder until the test is over, so that it can be cleaned up."""

    def change(path: Path, mode: int = 0) -> None:
        before = path.stat().st_mode & 0o7777
        request.addfinalizer(lambda: path.exists() and path.chmod(before))
        path.chmod(mode)

    return change
