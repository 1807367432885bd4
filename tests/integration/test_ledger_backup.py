"""Backups of the ledger: creation beside a daemon, restoration, and detection of wrong
restorations.
"""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from speakeasyd import cli
from speakeasyd.config import LedgerSettings
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import backup
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.restoring import restore_ledger
from speakeasyd.services.janitor import Janitor
from speakeasyd.testing import ManualClock
from tests.ledgers import build_job, create_ledger, insert_jobs, open_ledger

PATHS = "SELECT path FROM job_status ORDER BY job_id"

_DAEMON = """
import asyncio, sys
from pathlib import Path
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from tests.ledgers import build_job, open_ledger

async def work(path, names):
    async with open_ledger(path) as ledger:
        await ledger.write(add_jobs, [build_job(name) for name in names])
        print("ready", flush=True)
        await asyncio.sleep(600)

path = Path(sys.argv[1])
migrate_ledger(path)
asyncio.run(work(path, sys.argv[2:]))
"""


def read_paths(ledger: Path) -> list[object]:
    return [row["path"] for row in query_readonly(ledger, PATHS)]


def leave_killed_daemon(ledger: Path, *names: str) -> None:
    """Add files as a daemon that is then killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, ledger, *names], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert backup.log_files(ledger)[0].stat().st_size > 0


async def _add(ledger: Path, *names: str) -> None:
    async with open_ledger(ledger) as opened:
        await opened.write(add_jobs, [build_job(name) for name in names])


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with a job about old.wav, closed normally."""
    path = tmp_path / "state" / "ledger.db"
    path.parent.mkdir()
    asyncio.run(_add(path, "old.wav"))
    return path


def read_paths_by_command(ledger: Path, *arguments: str) -> int:
    return cli.main(["ledger", *arguments, "--state", str(ledger.parent)])


async def test_a_backup_beside_a_daemon_includes_the_log(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with open_ledger(ledger) as daemon:
        await daemon.write(add_jobs, [build_job("new.wav")])
        assert await asyncio.to_thread(read_paths_by_command, ledger, "backup", str(copy)) == 0
        assert await asyncio.to_thread(read_paths_by_command, ledger, "check") == 0
        await daemon.write(add_jobs, [build_job("later.wav")])
    assert read_paths(copy) == ["old.wav", "new.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "state"]
    if os.name == "posix":
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_backup_overwrites_only_on_request(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    assert read_paths_by_command(ledger, "backup", str(copy)) == 2
    assert "--force" in capsys.readouterr().err
    assert copy.read_text() == "precious"
    assert read_paths_by_command(ledger, "backup", str(copy), "--force") == 0
    assert read_paths(copy) == ["old.wav"]
    assert read_paths_by_command(ledger, "backup", str(ledger), "--force") == 2


def test_restore_keeps_the_replaced_ledger(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert read_paths_by_command(ledger, "backup", str(copy)) == 0
    leave_killed_daemon(ledger, "new.wav")
    assert read_paths_by_command(ledger, "restore", str(copy)) == 0
    assert read_paths(ledger) == ["old.wav"]
    [kept] = ledger.parent.glob("ledger-replaced-*.db")
    assert read_paths(kept) == ["old.wav", "new.wav"]
    migrate_ledger(ledger)


def test_restore_refuses_beside_a_daemon(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    assert read_paths_by_command(ledger, "backup", str(copy)) == 0
    with LedgerLock(ledger.parent):
        assert read_paths_by_command(ledger, "restore", str(copy)) == 2
    assert "Stop it first" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give files away")
def test_what_root_puts_back_belongs_to_the_service(ledger: Path, tmp_path: Path) -> None:
    copy, state = tmp_path / "copy.db", ledger.parent
    assert read_paths_by_command(ledger, "backup", str(copy)) == 0
    for path in (state, *state.iterdir()):
        os.chown(path, 4321, 4322)
    (state / "daemon.lock").unlink(missing_ok=True)
    assert read_paths_by_command(ledger, "restore", str(copy)) == 0
    assert read_paths_by_command(ledger, "vacuum") == 0
    asyncio.run(_add(ledger, "new.wav"))
    backup.back_up(ledger, label="test")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in state.rglob("*")}
    assert {"ledger.db", "daemon.lock", "backups"} <= owners.keys()
    assert set(owners.values()) == {(4321, 4322)}, owners


def test_vacuum_gives_space_back_and_keeps_the_rest(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(ledger)) as connection:
        insert_jobs(connection, 3000)
        connection.execute("DELETE FROM jobs WHERE path LIKE 'file %'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = ledger.stat().st_size
    with LedgerLock(ledger.parent):
        assert read_paths_by_command(ledger, "vacuum") == 2
    assert "Stop it first" in capsys.readouterr().err
    assert ledger.stat().st_size == before
    assert read_paths_by_command(ledger, "vacuum") == 0
    assert ledger.stat().st_size < before / 2
    assert read_paths_by_command(ledger, "check") == 0
    assert read_paths(ledger) == ["old.wav"]


def test_vacuum_of_a_killed_daemon_keeps_what_is_in_the_log(ledger: Path) -> None:
    leave_killed_daemon(ledger, "new.wav")
    assert read_paths_by_command(ledger, "vacuum") == 0
    assert read_paths(ledger) == ["old.wav", "new.wav"]
    migrate_ledger(ledger)


def test_restore_without_a_ledger(ledger: Path, tmp_path: Path) -> None:
    restore_ledger(ledger, tmp_path / "fresh" / "ledger.db")
    assert read_paths(tmp_path / "fresh" / "ledger.db") == ["old.wav"]


def _write_text_file(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def _create_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def _set_newer_version(path: Path) -> None:
    create_ledger(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def _damage_ledger(path: Path) -> None:
    create_ledger(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_write_text_file, "is not a readable ledger"),
        (_create_other_database, "is not a readable ledger"),
        (_set_newer_version, "newer version"),
        (_damage_ledger, "damaged"),
        (lambda path: None, "there is no file"),
    ],
)
def test_restore_accepts_only_valid_ledgers(
    ledger: Path, tmp_path: Path, make: object, expected: str
) -> None:
    copy = tmp_path / "copy.db"
    assert callable(make)
    make(copy)
    with pytest.raises(LedgerError, match=expected):
        restore_ledger(copy, ledger)
    assert read_paths(ledger) == ["old.wav"]
    assert not list(ledger.parent.glob("*replaced*"))


def test_check_describes_damage(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_paths_by_command(ledger, "check") == 0
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("DELETE FROM batches")
    assert read_paths_by_command(ledger, "check") == 1
    assert "ledger restore" in capsys.readouterr().out
    _write_text_file(ledger)
    assert read_paths_by_command(ledger, "check") == 2
    ledger.unlink()
    assert read_paths_by_command(ledger, "check") == 2


# --- manual restoration beside the log of a killed daemon


def _restore_by_copying(copy: Path, ledger: Path) -> None:
    shutil.copyfile(copy, ledger)


def _restore_with_times(copy: Path, ledger: Path) -> None:
    shutil.copy2(copy, ledger)


def _restore_by_renaming(copy: Path, ledger: Path) -> None:
    copy.replace(ledger)


@pytest.mark.parametrize(
    "put_back", [_restore_by_copying, _restore_with_times, _restore_by_renaming]
)
@pytest.mark.parametrize("how", ["cp", "backup"])
def test_a_copy_beside_the_log_of_a_killed_daemon_is_detected(
    ledger: Path, tmp_path: Path, put_back: object, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    if how == "cp":
        shutil.copy2(ledger, copy)
    else:
        assert read_paths_by_command(ledger, "backup", str(copy)) == 0
    leave_killed_daemon(ledger, *(f"new {number}.wav" for number in range(50)))
    assert callable(put_back)
    put_back(copy, ledger)
    before = ledger.read_bytes()
    for command in (
        ["jobs"],
        ["retry", "1"],
        ["ledger", "check"],
        ["ledger", "backup", str(tmp_path / "x")],
    ):
        assert cli.main([*command, "--state", str(ledger.parent)]) == 2, command
        assert "was replaced" in (err := capsys.readouterr().err), command
        assert f"speakeasyd ledger restore {ledger}" in err
    with pytest.raises(LedgerError, match="was replaced"):
        migrate_ledger(ledger)
    assert ledger.read_bytes() == before
    assert read_paths_by_command(ledger, "restore", str(ledger)) == 0
    assert read_paths(ledger) == ["old.wav"]
    migrate_ledger(ledger)
    assert read_paths_by_command(ledger, "check") == 0


def test_a_complete_copy_of_a_killed_daemons_state_works(ledger: Path, tmp_path: Path) -> None:
    leave_killed_daemon(ledger, "new.wav")
    shutil.copytree(ledger.parent, tmp_path / "elsewhere")
    for state in (tmp_path / "elsewhere", ledger.parent):
        migrate_ledger(state / "ledger.db")
        assert read_paths(state / "ledger.db") == ["old.wav", "new.wav"]


def test_work_continues_after_a_kill(ledger: Path) -> None:
    for number in range(3):
        leave_killed_daemon(ledger, f"new {number}.wav")
        assert len(read_paths(ledger)) == number + 2
    asyncio.run(_add(ledger, "last.wav"))
    assert read_paths(ledger)[-1] == "last.wav"


async def test_a_checkpoint_is_not_a_replacement(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speakeasyd.ledger.connections.WAL_BYTES", 100_000)
    async with open_ledger(ledger) as daemon:
        for number in range(300):
            await daemon.write(add_jobs, [build_job(f"{number}.wav")])
        assert len(await asyncio.to_thread(read_paths, ledger)) == 301
        assert backup.log_files(ledger)[0].stat().st_size < 400_000


# --- scheduled backups


async def test_scheduled_backups(ledger: Path) -> None:
    clock = ManualClock()
    settings = LedgerSettings(backup_hours=24, backup_keep=2)
    folder = ledger.parent / "backups"
    async with open_ledger(ledger, clock=clock) as daemon:
        janitor = Janitor(path=ledger, ledger=daemon, settings=settings, clock=clock)
        await janitor.run_once()
        assert not folder.exists(), "a ledger is not copied as soon as it is made"
        for days in range(1, 5):
            clock.advance(timedelta(hours=25).total_seconds())
            await janitor.run_once()
            await janitor.run_once()
            assert len(list(folder.iterdir())) == min(days, 2)
    for copy in folder.iterdir():
        assert read_paths(copy) == ["old.wav"]


def test_a_scheduled_backup_never_fills_the_disk(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "RESERVE_BYTES", shutil.disk_usage(ledger.parent).total * 2)
    with pytest.raises(backup.NoRoom):
        backup.back_up_on_schedule(ledger, keep=3)
    assert not (ledger.parent / "backups").exists()


async def test_a_copy_in_steps_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    monkeypatch.setattr(backup, "COPY_PAGES", 1)
    shares: list[float] = []
    async with open_ledger(ledger) as opened:
        await opened.write(add_jobs, [build_job("before")])
        with closing(sqlite3.connect(ledger)) as other, closing(backup.open_live(ledger)) as source:

            def change_ledger(share: float) -> None:
                shares.append(share)
                other.execute("UPDATE jobs SET path = path || '!'")
                other.commit()

            backup.copy_ledger(source, copy, on_progress=change_ledger)
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    assert len(shares) > 10
    assert read_paths(copy) == ["before"]
