"""Not there, not allowed, full, read-only and held by another program are told apart, with what to do."""

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
from tests.ledgers import a_file, opened
from tests.permissions import Deny, deny, restricted

__all__ = ["deny"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts of Linux")

CHANGES = (["retry", "1"], ["cancel", "1"])
QUESTIONS = (["jobs"], ["ledger", "check"], ["sql", "SELECT 1 AS one"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own with a state folder on it. Skips where nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "small", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no mount: {mounted.stderr.decode()}")
    try:
        (place / "state").mkdir()
        yield place / "state"
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def ask(state: Path, *words: str) -> str:
    """What the command says on its way out with an error."""
    command = [*restricted(), sys.executable, "-m", "speakeasyd", *words, "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode, done.stdout
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    return done.stderr


def inbox_and_outbox(place: Path) -> list[str]:
    folders = (place / "in", place / "out")
    for folder in folders:
        folder.mkdir()
    return ["--inbox", str(folders[0]), "--outbox", str(folders[1])]


def fill(folder: Path) -> None:
    """Until not one byte more has room."""
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(b"\0" * 4096):
                pass
        except OSError:
            pass


async def add_a_job(ledger: Ledger, name: str) -> None:
    await ledger.write(new_jobs.add_jobs, [a_file(name)])


async def add_jobs(ledger: Ledger, count: int) -> None:
    for number in range(count):
        await add_a_job(ledger, f"{number}.mp3")


async def test_a_full_disk(disk: Path) -> None:
    async with opened(disk / LEDGER, clock=SystemClock()) as ledger:
        await add_a_job(ledger, "one.mp3")
        fill(disk)
        with pytest.raises(LedgerFull, match="is full") as refused:
            await add_jobs(ledger, 1000)
        assert "room" in refused.value.hint
        (disk / "ballast").unlink()
        await add_a_job(ledger, "two.mp3")  # it goes on


@pytest.mark.parametrize("command", [["once"], ["run"]], ids=" ".join)
def test_a_daemon_does_not_start_on_a_full_disk(disk: Path, command: list[str]) -> None:
    fill(disk)
    assert "is full" in ask(disk, *command, *inbox_and_outbox(disk.parents[1]))


@pytest.mark.parametrize("command", [*CHANGES, ["once"]], ids=" ".join)
def test_a_read_only_disk(disk: Path, command: list[str], tmp_path: Path) -> None:
    migrate_ledger(disk / LEDGER)
    subprocess.run(["mount", "-o", "remount,ro", disk.parent], check=True)
    folders = inbox_and_outbox(tmp_path)
    said = ask(disk, *command, *(folders if command == ["once"] else ()))
    assert "read-only filesystem" in said
    assert "mount" in said


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
    fill(disk)
    said = ask(tmp_path, "ledger", "backup", str(disk / "copy.db"))
    assert "is full" in said or "No space left" in said
    assert str(disk / "copy.db") in said


@pytest.mark.parametrize("words", [*CHANGES, *QUESTIONS], ids=" ".join)
def test_what_is_not_there(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "state").mkdir()
    assert "there is no ledger" in ask(tmp_path / "state", *words)
    assert "there is no state folder" in ask(tmp_path / "nowhere", *words)


@pytest.mark.parametrize("words", [*CHANGES, *QUESTIONS, ["once"]], ids=" ".join)
@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_is_not_allowed(tmp_path: Path, deny: Deny, words: list[str], which: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    migrate_ledger(state / LEDGER)
    deny(state if which == "folder" else state / LEDGER)
    folders = inbox_and_outbox(tmp_path)
    said = ask(state, *words, *(folders if words == ["once"] else ()))
    assert "this user may not" in said
    assert "chmod" in said or "sudo" in said or "as the user" in said


@pytest.mark.parametrize("words", [["jobs"], ["retry", "1"]], ids=" ".join)
def test_what_another_program_holds(tmp_path: Path, words: list[str]) -> None:
    migrate_ledger(tmp_path / LEDGER)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        said = ask(tmp_path, *words)
        assert f"process {os.getpid()}" in said
        assert "locked by another program" in said


def test_owners_are_told_how_to_give_themselves_the_right(tmp_path: Path, deny: Deny) -> None:
    migrate_ledger(tmp_path / LEDGER)
    deny(tmp_path / LEDGER, 0o400)
    assert f"chmod u+rwX {tmp_path / LEDGER}" in ask(tmp_path, "retry", "1")


Spoil = Callable[[Path], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        lambda path: path.write_text("x" * 5000),
    ],
)
def test_damage_is_neither_of_them(tmp_path: Path, spoil: Spoil) -> None:
    migrate_ledger(tmp_path / LEDGER)
    shutil.copy(tmp_path / LEDGER, tmp_path / "kept.db")
    spoil(tmp_path / LEDGER)
    said = ask(tmp_path, "jobs")
    assert "damaged" in said
    assert "ledger restore" in said
