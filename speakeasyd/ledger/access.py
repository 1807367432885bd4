"""What this process may do with a ledger, and a connection that only reads, also where nothing can be written.

Quick to import: no SQLAlchemy here.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from speakeasyd.errors import LedgerDenied, LedgerError, LedgerHeld
from speakeasyd.ledger.locks import describe_hold
from speakeasyd.ledger.pairing import refuse_foreign_log

BUSY_S = 5.0  # seconds to wait where a read must wait at all
COPY_TRIES = 3  # of a copy that was changed while it was made


def require_readable(path: Path) -> None:
    """Raises LedgerError where there is no ledger, LedgerDenied where this user may not read it."""
    try:
        path.stat()
    except PermissionError as error:
        raise _denied("look into", path.parent) from error
    except OSError as error:
        if not path.parent.is_dir():
            what, hint = (
                f"there is no state folder {path.parent}",
                "The daemon makes it. Is it the right one?",
            )
        else:
            what, hint = (
                f"there is no ledger {path}",
                "It is made when the daemon first starts. Is the state folder right?",
            )
        raise LedgerError(what, hint=hint) from error
    if not os.access(path, os.R_OK):
        raise _denied("read", path)


def require_writable(path: Path) -> None:
    """Raises as `require_readable`, and where this user may not change the ledger, or nobody can."""
    require_readable(path)
    if _is_on_read_only_filesystem(path):
        raise LedgerError(
            f"{path} is on a read-only filesystem", hint="Only questions can be asked there."
        )
    sidecars = (Path(f"{path}-wal"), Path(f"{path}-shm"))
    for place in (path.parent, path, *(file for file in sidecars if file.exists())):
        if not os.access(place, os.W_OK):
            raise _denied("change", place)


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write. Raises as `require_readable`, and LedgerError where it cannot be opened.

    SQLite needs the file `-shm`, or to make it, to read what is in the log. Without it:
    - a ledger with an empty log is all in its file, and is read as one that does not change;
    - a ledger with a log is copied, and the copy is read: without its log it would be an old one.
    """
    require_readable(path)
    with suppress(PermissionError):  # the note that tells is not for everybody
        refuse_foreign_log(path)
    try:
        connection = _connect(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise _unreadable(path, error) from error
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    else:
        with closing(connection):
            yield connection
        return
    if _bytes_in_log(path):
        with (
            tempfile.TemporaryDirectory(prefix="speakeasyd-") as folder,
            closing(_open_copy(path, folder)) as copy,
        ):
            yield copy
        return
    before = _signature(path)
    with closing(_connect(path, "mode=ro&immutable=1")) as unchanging:
        yield unchanging
    if _signature(path) != before:
        raise LedgerError(f"the ledger {path} was changed while it was read", hint="Ask again.")


def _connect(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_S, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _open_copy(path: Path, folder: str) -> sqlite3.Connection:
    """Of the ledger and its log as they were at one moment."""
    copy = Path(folder) / path.name
    log = Path(f"{path}-wal")
    if not os.access(log, os.R_OK):
        raise _denied("read", log)
    for _ in range(COPY_TRIES):
        before = _signature(path)
        shutil.copyfile(path, copy)
        shutil.copyfile(log, f"{copy}-wal")
        if _signature(path) == before:
            try:
                return _connect(copy, "mode=rw")
            except sqlite3.Error as error:
                raise _unreadable(path, error) from error
    shm = Path(f"{path}-shm")
    raise LedgerError(
        f"the ledger {path} changes all the time, and {shm} cannot be used",
        hint="A daemon writes it: ask as its user, or as one who may read and write that file.",
    )


def _signature(path: Path) -> tuple[tuple[int, int], ...]:
    """Of the ledger and its log: differs once either was written."""
    found = []
    for file in (path, Path(f"{path}-wal")):
        try:
            stat = file.stat()
            found.append((stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append((0, 0))
    return tuple(found)


def _bytes_in_log(path: Path) -> int:
    try:
        return Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _is_on_read_only_filesystem(path: Path) -> bool:
    statvfs = getattr(os, "statvfs", None)
    return statvfs is not None and bool(statvfs(path).f_flag & os.ST_RDONLY)


def is_held(error: Exception) -> bool:
    """Whether another program holds the ledger."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _unreadable(path: Path, error: sqlite3.Error) -> LedgerError:
    if is_held(error):
        return LedgerHeld(describe_hold(path))
    return LedgerError(f"cannot read the ledger {path}: {error}")


def _denied(do: str, place: Path) -> LedgerDenied:
    owner = _owner(place)
    hint = (
        f"Do it as {owner}: sudo -u {owner} speakeasyd ..."
        if owner
        else "Do it as the user of the daemon."
    )
    return LedgerDenied(f"this user may not {do} {place}", hint=hint)


def _owner(place: Path) -> str:
    """The name of the user whom it belongs to; empty where that cannot be told."""
    try:
        return place.owner()
    except (OSError, KeyError, NotImplementedError):
        return ""
