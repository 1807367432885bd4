"""Copies of the ledger: before its schema changes, by the day, and when a person asks for one."""

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from speakeasyd.durable import sync_folder
from speakeasyd.errors import LedgerError

KEEP = 3  # copies made before a change of the schema
PRIVATE = 0o600  # a ledger holds every transcript
SCHEDULED = "daily"  # the label of copies that the settings ask for
RESERVE_BYTES = 256 << 20  # a scheduled copy leaves at least so much room on the disk


class NoRoom(LedgerError):
    """A scheduled copy would leave too little room on the disk."""


def back_up(path: Path, *, label: str, keep: int = KEEP) -> Path:
    """Copy the ledger into the folder `backups` beside it and remove the oldest of this kind. Returns the copy."""
    folder = path.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    copy = folder / f"{path.stem}-{moment}-{label}{path.suffix}"
    with closing(open_live(path)) as source:
        copy_ledger(source, copy)
    for old in _list_copies(path, scheduled=label == SCHEDULED)[:-keep]:
        old.unlink()
    return copy


def back_up_on_schedule(path: Path, *, keep: int) -> Path:
    """Raises NoRoom, before anything is written, where the copy would leave too little room."""
    size = path.stat().st_size
    free = shutil.disk_usage(path.parent).free
    if free < size + max(size, RESERVE_BYTES):
        raise NoRoom(
            f"no backup of the ledger: {free >> 20} MiB are free, and it takes {size >> 20} MiB"
        )
    return back_up(path, label=SCHEDULED, keep=keep)


def copy_ledger(source: sqlite3.Connection, target: Path, *, overwrite: bool = False) -> None:
    """Make a whole copy, durably, under its name once it is complete. Others may read and write the ledger meanwhile.

    Raises LedgerError.
    """
    if target.exists() and not overwrite:
        raise LedgerError(f"there is a file {target} already", hint="--force overwrites it.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as copy:
            source.backup(copy)  # in one step: one consistent state, the log taken in
            copy.execute(
                "PRAGMA journal_mode = DELETE"
            )  # one file, which can be read on a read-only disk too
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise LedgerError(f"the ledger cannot be copied to {target}: {error}") from error
    finally:
        for leftover in (unfinished, *log_files(unfinished)):
            leftover.unlink(missing_ok=True)


def log_files(ledger: Path) -> tuple[Path, Path]:
    """SQLite's write-ahead log beside a ledger, and the index of it."""
    return ledger.with_name(f"{ledger.name}-wal"), ledger.with_name(f"{ledger.name}-shm")


def open_live(path: Path) -> sqlite3.Connection:
    """To read a ledger that others may have open."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def open_copy(path: Path, *, without_log: bool = False) -> sqlite3.Connection:
    """To read one that nobody has open, without making files beside it: it may lie on a read-only disk."""
    alone = without_log or not log_files(path)[0].exists()
    return (
        sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        if alone
        else open_live(path)
    )


def _list_copies(path: Path, *, scheduled: bool) -> list[Path]:
    found = sorted((path.parent / "backups").glob(f"{path.stem}-*{path.suffix}"))
    return [copy for copy in found if copy.stem.endswith(f"-{SCHEDULED}") == scheduled]
