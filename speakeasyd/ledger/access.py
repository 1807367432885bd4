"""Access checks for a ledger, and a read-only connection that also works on read-only disks.

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

BUSY_S = 5.0  # seconds that a read waits for a lock
COPY_TRIES = 3  # attempts to copy a ledger that changes while it is copied


def require_readable(path: Path) -> None:
    """Check that the ledger can be read.

    Raises LedgerError if there is no ledger, LedgerDenied if this user may not read it.
    """
    try:
        path.stat()
    except PermissionError as error:
        raise _denied("open", path.parent) from error
    except OSError as error:
        if not path.parent.is_dir():
            what, hint = (
                f"there is no state folder {path.parent}",
                "The daemon creates it. Is the path right?",
            )
        else:
            what, hint = (
                f"there is no ledger {path}",
                "The daemon creates it at its first start. Is the state folder right?",
            )
        raise LedgerError(what, hint=hint) from error
    if not os.access(path, os.R_OK):
        raise _denied("read", path)


def require_writable(path: Path) -> None:
    """Check that the ledger can be changed.

    Raises LedgerError if there is no ledger or its filesystem is read-only, LedgerDenied if this
    user may not change it.
    """
    require_readable(path)
    if _is_on_read_only_filesystem(path):
        raise LedgerError(
            f"{path} is on a read-only filesystem", hint="The ledger can only be read there."
        )
    sidecars = (Path(f"{path}-wal"), Path(f"{path}-shm"))
    for file in (path.parent, path, *(sidecar for sidecar in sidecars if sidecar.exists())):
        if not os.access(file, os.W_OK):
            raise _denied("change", file)


@contextmanager
def open_for_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection that cannot write.

    SQLite needs the file `-shm`, or the right to create it, to read the write-ahead log. Without
    it:

    - a ledger with an empty log is read as an immutable file;
    - a ledger with a log is copied with its log, and the copy is read. Without the log, readers
      would see old data.

    Raises as `require_readable`, LedgerHeld while it is locked, LedgerError if it cannot be opened
    or was changed while it was read.
    """
    require_readable(path)
    with suppress(PermissionError):  # not every reader may read the pair file
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
        raise LedgerError(f"the ledger {path} was changed while it was read", hint="Try again.")


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=BUSY_S, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _open_copy(path: Path, folder: str) -> sqlite3.Connection:
    """Copy the ledger and its log as of one moment, and open the copy.

    Raises LedgerError if they change too often for a consistent copy.
    """
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
        hint="The daemon is writing. Run this as its user, or as a user with access to that file.",
    )


def _signature(path: Path) -> tuple[tuple[int, int], ...]:
    """Return sizes and times of the ledger and its log; they differ once either was written."""
    states = []
    for file in (path, Path(f"{path}-wal")):
        try:
            state = file.stat()
            states.append((state.st_size, state.st_mtime_ns))
        except FileNotFoundError:
            states.append((0, 0))
    return tuple(states)


def _bytes_in_log(path: Path) -> int:
    try:
        return Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _is_on_read_only_filesystem(path: Path) -> bool:
    statvfs = getattr(os, "statvfs", None)
    return statvfs is not None and bool(statvfs(path).f_flag & os.ST_RDONLY)


def is_held(error: Exception) -> bool:
    """Return whether an error of SQLite means that another program holds a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _unreadable(path: Path, error: sqlite3.Error) -> LedgerError:
    if is_held(error):
        return LedgerHeld(describe_hold(path))
    return LedgerError(f"cannot read the ledger {path}: {error}")


def _denied(action: str, path: Path) -> LedgerDenied:
    owner = _owner(path)
    hint = (
        f"Do it as {owner}: sudo -u {owner} speakeasyd ..."
        if owner
        else "Do it as the user of the daemon."
    )
    return LedgerDenied(f"this user may not {action} {path}", hint=hint)


def _owner(path: Path) -> str:
    """Return the name of the user who owns a file; empty if it is unknown."""
    try:
        return path.owner()
    except (OSError, KeyError, NotImplementedError):
        return ""
