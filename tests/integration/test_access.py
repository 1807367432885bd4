"""Commands without the right to write or read the ledger: what they print, and what is denied."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.lock import LedgerLock, find_holder
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.results import store_results
from tests.conftest import HOMES
from tests.ledgers import build_chunk, build_job, finish_job, open_ledger
from tests.permissions import Deny, build_restricted_prefix, deny

__all__ = ["deny"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")

READING_COMMANDS = (
    ["status"],
    ["jobs"],
    ["show", "1"],
    ["sql", "SELECT count(*) AS n FROM job_status"],
    ["search", "morning"],
    ["why", "inbox/talk.mp3", "--inbox", "inbox", "--outbox", "outbox"],
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose ledger was closed normally: no `-wal`, no `-shm`."""
    folder = tmp_path / "state"
    folder.mkdir()
    (tmp_path / "inbox").mkdir()

    async def fill_ledger() -> None:
        async with open_ledger(folder / "ledger.db", clock=SystemClock()) as ledger:
            await ledger.write(add_jobs, [build_job("talk.mp3")])
            [job] = await ledger.write(claim_jobs, 1)
            await ledger.write(
                store_results, [(job.id, job.token, build_chunk(0, " Good morning."))]
            )
            await finish_job(ledger, job)

    asyncio.run(fill_ledger())
    return folder


def run_restricted(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        *build_restricted_prefix(),
        sys.executable,
        "-m",
        "speakeasyd",
        *words,
        "--state",
        str(state),
    ]
    return subprocess.run(
        command, cwd=state.parent, capture_output=True, text=True, timeout=90, check=False
    )


@pytest.mark.parametrize("command", READING_COMMANDS, ids=lambda words: words[0])
def test_reading_commands_need_no_right_to_write(
    state: Path, deny: Deny, command: list[str]
) -> None:
    for file in state.iterdir():
        deny(file, 0o444)
    deny(state, 0o555)
    done = run_restricted(state, *command)
    assert done.returncode == (1 if command[0] == "status" else 0), done.stderr
    assert "unable to open" not in done.stdout + done.stderr


@pytest.fixture
def in_use(state: Path) -> Iterator[sqlite3.Connection]:
    """Keep the ledger open with a change that is only in its log."""
    connection = sqlite3.connect(state / "ledger.db", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE jobs SET path = 'renamed.mp3'")
    yield connection
    connection.close()


def test_a_change_in_the_log_is_read_without_the_right_to_write(
    state: Path, in_use: sqlite3.Connection, deny: Deny
) -> None:
    for file in state.iterdir():
        deny(file, 0o444)
    deny(state, 0o555)
    assert "renamed.mp3" in run_restricted(state, "sql", "SELECT path FROM job_status").stdout


@pytest.mark.parametrize("is_there", [True, False])
def test_a_log_with_an_unusable_index_is_read(
    state: Path, in_use: sqlite3.Connection, deny: Deny, tmp_path: Path, is_there: bool
) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("ledger.db", "ledger.db-wal", *(["ledger.db-shm"] if is_there else [])):
        shutil.copyfile(state / name, killed / name)
        deny(killed / name, 0 if name.endswith("-shm") else 0o444)
    deny(killed, 0o555)
    assert "renamed.mp3" in run_restricted(killed, "sql", "SELECT path FROM job_status").stdout


def test_an_unreadable_log_is_reported(state: Path, in_use: sqlite3.Connection, deny: Deny) -> None:
    deny(state / "ledger.db-wal")
    deny(state / "ledger.db-shm")
    done = run_restricted(state, "sql", "SELECT path FROM job_status")
    assert done.returncode == 2
    assert "this user may not read" in done.stderr
    assert "ledger.db-wal" in done.stderr


@pytest.mark.parametrize(
    "change", [["pause"], ["resume"], ["retry", "1"], ["cancel", "1"], ["config", "reload"]]
)
def test_changes_need_the_right_to_write(state: Path, deny: Deny, change: list[str]) -> None:
    with LedgerLock(state):
        for file in state.iterdir():
            deny(file, 0o444)
        deny(state, 0o555)
        done = run_restricted(state, *change)
    assert done.returncode == 2
    assert "this user may not change" in done.stderr
    assert "disk" not in done.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["pause"], ["jobs"], ["retry", "1"], ["search", "morning"]]
)
def test_an_unreadable_state_folder_is_reported(
    state: Path, deny: Deny, command: list[str]
) -> None:
    deny(state)
    done = run_restricted(state, *command)
    assert done.returncode == 2
    assert "this user may not" in done.stderr
    assert str(state) in done.stderr
    assert "down" not in done.stdout


def test_a_running_daemon_is_seen_with_read_permission(state: Path, deny: Deny) -> None:
    with LedgerLock(state):
        deny(state / "daemon.lock", 0o444)
        deny(state, 0o555)
        done = run_restricted(state, "status")
        assert done.returncode == 0
        assert f"process {os.getpid()}" in done.stdout
        assert find_holder(state)


def test_reading_the_lock_does_not_block_other_readers(state: Path) -> None:
    with LedgerLock(state):
        signed = (state / "daemon.lock").read_bytes()
    (state / "daemon.lock").write_bytes(
        signed or b'{"pid": 1, "host": "h", "started_at": "2026-01-01T00:00:00Z"}'
    )
    assert find_holder(state) is None


def test_a_missing_ledger_and_a_missing_state_folder_differ(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no ledger" in run_restricted(tmp_path / "empty", "jobs").stderr
    assert "there is no state folder" in run_restricted(tmp_path / "nowhere", "jobs").stderr


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root may mount")
def test_a_read_only_mount_can_be_read(state: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "--bind", str(state), str(mounted)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this system lets root mount nothing")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(mounted)], check=True)
        for command in READING_COMMANDS:
            done = run_restricted(mounted, *command)
            assert done.returncode == (1 if command[0] == "status" else 0), done.stderr
        done = run_restricted(mounted, "retry", "1")
        assert "is on a read-only filesystem" in done.stderr
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_why_of_an_unreadable_file(state: Path, deny: Deny) -> None:
    inbox = state.parent / "inbox"
    places = ["--inbox", str(inbox), "--outbox", str(state.parent / "outbox")]
    (inbox / "closed").mkdir()
    (inbox / "closed" / "a.mp3").write_bytes(b"x")
    (inbox / "secret.mp3").write_bytes(b"x")
    deny(inbox / "secret.mp3")
    deny(inbox / "closed")
    done = run_restricted(state, "why", str(inbox / "closed" / "a.mp3"), *places)
    assert (done.returncode, done.stderr) == (0, "")
    assert "you have no permission to read it" in done.stdout
    done = run_restricted(state, "why", str(inbox / "secret.mp3"), *places)
    assert (done.returncode, done.stderr) == (0, "")
    assert "it is in the inbox and has no job yet" in done.stdout


# --- the configuration and other folders


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_an_unreadable_configuration_is_reported(state: Path, deny: Deny, closed: str) -> None:
    file = state.parent / "etc" / "speakeasyd.toml"
    file.parent.mkdir()
    file.write_text("")
    deny(file if closed == "file" else file.parent)
    done = run_restricted(state, "status", "--config", str(file))
    assert done.returncode == 78
    assert f"cannot read {file}: Permission denied" in done.stderr
    assert "a member of the group" in done.stderr
    check = [
        *build_restricted_prefix(),
        sys.executable,
        "-m",
        "speakeasyd",
        "config",
        "check",
        str(file),
    ]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 78


def test_an_unreadable_home_folder_is_skipped(
    state: Path, deny: Deny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that change the user may keep the HOME of their caller."""
    home = state.parent / "home"
    home.mkdir()
    for name in HOMES:
        monkeypatch.setenv(name, str(home))
    deny(home)
    done = run_restricted(state, "jobs")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unreadable_inbox_is_reported(state: Path, deny: Deny) -> None:
    inbox = state.parent / "closed" / "inbox"
    inbox.mkdir(parents=True)
    deny(inbox.parent)
    done = run_restricted(
        state, "once", "--inbox", str(inbox), "--outbox", str(state.parent / "outbox")
    )
    assert done.returncode == 2
    assert f"the inbox {inbox}: Permission denied" in done.stderr


def test_a_permission_error_is_not_a_defect(state: Path, deny: Deny) -> None:
    folder = state.parent / "closed"
    folder.mkdir()
    deny(folder, 0o555)
    command = [*build_restricted_prefix(), sys.executable, "-m", "speakeasyd", "config", "init"]
    done = subprocess.run(
        [*command, str(folder / "deep" / "speakeasyd.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{folder / 'deep'}: Permission denied" in done.stderr
    assert "defect" not in done.stderr


def test_doctor_checks_everything_that_the_user_can_read(state: Path, deny: Deny) -> None:
    for folder in (inbox := state.parent / "closed" / "inbox", outbox := state.parent / "shut"):
        folder.mkdir(parents=True)
    deny(state)
    deny(inbox.parent)
    deny(outbox, 0o555)
    done = run_restricted(
        state, "doctor", "--inbox", str(inbox), "--outbox", str(outbox), "--device", "cpu"
    )
    assert done.returncode == 1
    assert done.stderr == ""
    for expected in (
        "fail daemon: ",
        f"fail ledger: this user may not open {state}",
        f"fail state folder: {state} cannot be written: Permission denied",
        f"fail inbox inbox: {inbox} cannot be read: Permission denied",
        f"fail outbox of inbox: {outbox} cannot be written: Permission denied",
        "ok   engine: ",
    ):
        assert expected in done.stdout


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root may give files away")
def test_doctor_reports_that_another_user_owns_the_ledger(state: Path) -> None:
    """It does not check the other user's right to write."""
    os.chown(state, 12345, 12345)
    state.chmod(0o755)
    done = run_restricted(
        state, "doctor", "--inbox", str(state.parent / "inbox"), "--device", "cpu"
    )
    assert done.returncode == 0, done.stdout
    assert "warn user: the ledger belongs to another user" in done.stdout
    assert f"warn state folder: {state} cannot be written: Permission denied" in done.stdout


@pytest.mark.skipif(
    os.name != "posix" or os.getuid() != 0, reason="only root may run a process as another user"
)
def test_another_users_read_permission(tmp_path: Path) -> None:
    from speakeasyd.system.users import may_read

    nobody = 65534
    with subprocess.Popen(["sleep", "60"], user=nobody, group=nobody, extra_groups=[]) as process:
        file = tmp_path / "a.mp3"
        file.write_bytes(b"x")
        for mode, allowed in ((0o600, False), (0o640, False), (0o644, True)):
            file.chmod(mode)
            assert may_read(process.pid, file) is allowed
        os.chown(file, nobody, 0)
        file.chmod(0o400)
        assert may_read(process.pid, file) is True
        process.kill()
