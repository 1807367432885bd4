"""A missing, forbidden, full, read-only or locked ledger gets its own error and hint."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.errors import LedgerFull
from speakeasyd.ledger import new_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.readonly import LEDGER
from tests.ledgers import build_job, open_ledger
from tests.permissions import Deny, build_restricted_prefix, deny

__all__ = ["deny"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts of Linux")

CHANGING_COMMANDS = (["retry", "1"], ["cancel", "1"])
READING_COMMANDS = (["jobs"], ["ledger", "check"], ["sql", "SELECT 1 AS one"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system with a state folder. Skips the test without the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "small", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no mount: {mounted.stderr.decode()}")
    try:
        (folder / "state").mkdir()
        yield folder / "state"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run_and_read_error(state: Path, *words: str) -> str:
    """Return what the command prints when it fails."""
    command = [
        *build_restricted_prefix(),
        sys.executable,
        "-m",
        "speakeasyd",
        *words,
        "--state",
        str(state),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode, done.stdout
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    return done.stderr


def build_folder_options(root: Path) -> list[str]:
    folders = (root / "in", root / "out")
    for folder in folders:
        folder.mkdir()
    return ["--inbox", str(folders[0]), "--outbox", str(folders[1])]


def fill_disk(folder: Path) -> None:
    """Fill the disk to the last byte."""
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(b"\0" * 4096):
                pass
        except OSError:
            pass


async def add_job_by_command(ledger: Ledger, name: str) -> None:
    await ledger.write(new_jobs.add_jobs, [build_job(name)])


async def add_jobs_by_command(ledger: Ledger, count: int) -> None:
    for number in range(count):
        await add_job_by_command(ledger, f"{number}.mp3")


async def test_a_full_disk(disk: Path) -> None:
    async with open_ledger(disk / LEDGER, clock=SystemClock()) as ledger:
        await add_job_by_command(ledger, "one.mp3")
        fill_disk(disk)
        with pytest.raises(LedgerFull, match="is full") as refused:
            await add_jobs_by_command(ledger, 1000)
        assert "room" in refused.value.hint
        (disk / "ballast").unlink()
        await add_job_by_command(ledger, "two.mp3")  # it continues


@pytest.mark.parametrize("command", [["once"], ["run"]], ids=" ".join)
def test_a_daemon_does_not_start_on_a_full_disk(disk: Path, command: list[str]) -> None:
    fill_disk(disk)
    assert "is full" in run_and_read_error(disk, *command, *build_folder_options(disk.parents[1]))


@pytest.mark.parametrize("command", [*CHANGING_COMMANDS, ["once"]], ids=" ".join)
def test_a_read_only_disk(disk: Path, command: list[str], tmp_path: Path) -> None:
    migrate_ledger(disk / LEDGER)
    subprocess.run(["mount", "-o", "remount,ro", disk.parent], check=True)
    folders = build_folder_options(tmp_path)
    message = run_and_read_error(disk, *command, *(folders if command == ["once"] else ()))
    assert "read-only filesystem" in message
    assert "mount" in message


def test_a_read_only_disk_can_be_checked_and_backed_up(disk: Path, tmp_path: Path) -> None:
    migrate_ledger(disk / LEDGER)
    subprocess.run(["mount", "-o", "remount,ro", disk.parent], check=True)
    copy = tmp_path / "copy.db"
    for words in (["check"], ["backup", str(copy)]):
        command = [sys.executable, "-m", "speakeasyd", "ledger", *words, "--state", str(disk)]
        subprocess.run(command, check=True, timeout=120)
    with closing(sqlite3.connect(copy)) as copied:
        assert copied.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def test_a_backup_to_a_full_disk(disk: Path, tmp_path: Path) -> None:
    migrate_ledger(tmp_path / LEDGER)
    fill_disk(disk)
    message = run_and_read_error(tmp_path, "ledger", "backup", str(disk / "copy.db"))
    assert "is full" in message or "No space left" in message
    assert str(disk / "copy.db") in message


@pytest.mark.parametrize("words", [*CHANGING_COMMANDS, *READING_COMMANDS], ids=" ".join)
def test_a_missing_ledger(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "state").mkdir()
    assert "there is no ledger" in run_and_read_error(tmp_path / "state", *words)
    assert "there is no state folder" in run_and_read_error(tmp_path / "nowhere", *words)


@pytest.mark.parametrize("words", [*CHANGING_COMMANDS, *READING_COMMANDS, ["once"]], ids=" ".join)
@pytest.mark.parametrize("which", ["folder", "file"])
def test_a_forbidden_ledger(tmp_path: Path, deny: Deny, words: list[str], which: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    migrate_ledger(state / LEDGER)
    deny(state if which == "folder" else state / LEDGER)
    folders = build_folder_options(tmp_path)
    message = run_and_read_error(state, *words, *(folders if words == ["once"] else ()))
    assert "this user may not" in message
    assert "chmod" in message or "sudo" in message or "as the user" in message


@pytest.mark.parametrize("words", [["jobs"], ["retry", "1"]], ids=" ".join)
def test_a_ledger_locked_by_another_program(tmp_path: Path, words: list[str]) -> None:
    migrate_ledger(tmp_path / LEDGER)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        message = run_and_read_error(tmp_path, *words)
        assert f"process {os.getpid()}" in message
        assert "locked by another program" in message


def test_owners_get_a_hint_about_permissions(tmp_path: Path, deny: Deny) -> None:
    migrate_ledger(tmp_path / LEDGER)
    deny(tmp_path / LEDGER, 0o400)
    assert f"chmod u+rwX {tmp_path / LEDGER}" in run_and_read_error(tmp_path, "retry", "1")


DamageFunction = Callable[[Path], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        lambda path: path.write_text("x" * 5000),
    ],
)
def test_a_damaged_ledger_has_its_own_error(tmp_path: Path, spoil: DamageFunction) -> None:
    migrate_ledger(tmp_path / LEDGER)
    shutil.copy(tmp_path / LEDGER, tmp_path / "kept.db")
    spoil(tmp_path / LEDGER)
    message = run_and_read_error(tmp_path, "jobs")
    assert "damaged" in message
    assert "ledger restore" in message
