"""One daemon per ledger, as the operating system sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speakeasyd.errors import LedgerMissing, StartError
from speakeasyd.ledger.lock import LedgerLock, find_holder

HOLD = """
import sys
from pathlib import Path
from speakeasyd.ledger.lock import LedgerLock
with LedgerLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_daemon_hears_who_is_there(tmp_path: Path, other: "subprocess.Popen[str]") -> None:
    with other:
        with (
            pytest.raises(
                StartError, match=rf"process {other.pid} on .*, since 20\d\d-"
            ) as refused,
            LedgerLock(tmp_path),
        ):
            pass
        there = find_holder(tmp_path)
        assert there
        assert there.pid == other.pid
        other.communicate("")
    assert refused.value.hint
    with LedgerLock(tmp_path):
        pass


def test_a_lock_ends_with_its_process_however_that_ends(
    tmp_path: Path, other: "subprocess.Popen[str]"
) -> None:
    with other:
        other.kill()
        other.wait()
    assert (tmp_path / "daemon.lock").read_bytes()  # its signature is still there
    assert find_holder(tmp_path) is None
    with LedgerLock(tmp_path):
        there = find_holder(tmp_path)
        assert there
        assert there.pid == os.getpid()
    assert find_holder(tmp_path) is None


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), LedgerLock(tmp_path):
        raise ValueError("inside")
    with LedgerLock(tmp_path):
        pass


def test_a_state_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(LedgerMissing, match="there is no state folder"),
        LedgerLock(tmp_path / "nowhere"),
    ):
        pass
    assert find_holder(tmp_path / "nowhere") is None
