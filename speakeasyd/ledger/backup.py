"""Backups of the ledger: before a migration, once a day, and on request."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from speakeasyd.durable import give_to_folder_owner, sync_folder
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.failures import build_full_error

KEEP = 3  # number of backups kept from before migrations
COPY_PAGES = 16_384  # pages that are copied between two reports of progress
PRIVATE = 0o600  # file mode: a ledger contains all transcripts
SCHEDULED = "daily"  # label of scheduled backups
RESERVE_BYTES = 256 << 20  # bytes that a scheduled backup leaves free on the disk


class NoRoom(LedgerError):
    """A scheduled backup would leave too little free space on the disk."""


def back_up(path: Path, *, label: str, keep: int = KEEP) -> Path:
    """Copy the ledger into the folder `backups` beside it. Returns the copy.

    Deletes the oldest backups of the same kind beyond `keep`. Raises LedgerError.
    """
    folder = path.parent / "backups"
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_folder_owner(folder)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    copy = folder / f"{path.stem}-{moment}-{label}{path.suffix}"
    with closing(open_live(path)) as source:
        copy_ledger(source, copy)
    give_to_folder_owner(copy)
    for old in _list_copies(path, scheduled=label == SCHEDULED)[:-keep]:
        old.unlink()
    return copy


def back_up_on_schedule(path: Path, *, keep: int) -> Path:
    """Make a scheduled backup. Returns the copy.

    Raises NoRoom, before anything is written, if it would leave too little free space; LedgerError.
    """
    size = path.stat().st_size
    free = shutil.disk_usage(path.parent).free
    if free < size + max(size, RESERVE_BYTES):
        raise NoRoom(
            f"no backup of the ledger: {free >> 20} MiB are free, and it takes {size >> 20} MiB"
        )
    return back_up(path, label=SCHEDULED, keep=keep)


def copy_ledger(
    source: sqlite3.Connection,
    target: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Copy a ledger durably. The copy gets its name when it is complete.

    Other programs may read and write the ledger meanwhile. `on_progress` gets the part that is
    copied, 0 to 1. Raises LedgerError.
    """

    def report_pages(_status: int, remaining: int, total: int) -> None:
        if on_progress:
            on_progress(1 - remaining / max(1, total))

    if target.exists() and not overwrite:
        raise LedgerError(f"the file {target} exists already", hint="--force overwrites it.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as copy:
            # A transaction: later changes of others do not make the copy begin again
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            try:
                source.backup(copy, pages=COPY_PAGES, progress=report_pages)
            finally:
                source.rollback()
            # one file without a log: it can be read on a read-only disk
            copy.execute("PRAGMA journal_mode = DELETE")
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"the ledger cannot be copied to {target}: {reason}"
        raise LedgerError(what, hint="Choose a folder that this user may write to.") from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        raise build_full_error(target) from error
    finally:
        for leftover in (unfinished, *log_files(unfinished)):
            leftover.unlink(missing_ok=True)


def log_files(ledger: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log of a ledger and of the log's index."""
    return ledger.with_name(f"{ledger.name}-wal"), ledger.with_name(f"{ledger.name}-shm")


def open_live(path: Path) -> sqlite3.Connection:
    """Open a ledger for reading that other programs may have open."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def open_copy(path: Path, *, without_log: bool = False) -> sqlite3.Connection:
    """Open a ledger for reading that no program has open.

    Creates no files beside it, since it may be on a read-only disk. `without_log`: ignore its log.
    """
    immutable = without_log or not log_files(path)[0].exists()
    return (
        sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        if immutable
        else open_live(path)
    )


def _list_copies(path: Path, *, scheduled: bool) -> list[Path]:
    copies = sorted((path.parent / "backups").glob(f"{path.stem}-*{path.suffix}"))
    return [copy for copy in copies if copy.stem.endswith(f"-{SCHEDULED}") == scheduled]
