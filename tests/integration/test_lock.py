"""One daemon for each ledger, by the operating system's locks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speakeasyd.errors import LedgerMissing, StartError
from speakeasyd.ledger.lock import LedgerLock, find_holder

HOLD_PROGRAM = """
import sys
from pathlib import Path
from speakeasyd.ledger.lock import LedgerLock
with LedgerLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_holder(tmp_path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_PROGRAM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_daemon_names_the_first(
    tmp_path: Path, other_holder: "subprocess.Popen[str]"
) -> None:
    with other_holder:
        with (
            pytest.raises(
                StartError, match=rf"process {other_holder.pid} on .*, since 20\d\d-"
            ) as refused,
            LedgerLock(tmp_path),
        ):
            pass
        there = find_holder(tmp_path)
        assert there
        assert there.pid == other_holder.pid
        other_holder.communicate("")
    assert refused.value.hint
    with LedgerLock(tmp_path):
        pass


def test_a_lock_ends_with_its_process(
    tmp_path: Path, other_holder: "subprocess.Popen[str]"
) -> None:
    with other_holder:
        other_holder.kill()
        other_holder.wait()
    assert (tmp_path / "daemon.lock").read_bytes()  # its file is still there
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


def test_a_missing_state_folder_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(LedgerMissing, match="there is no state folder"),
        LedgerLock(tmp_path / "nowhere"),
    ):
        pass
    assert find_holder(tmp_path / "nowhere") is None
