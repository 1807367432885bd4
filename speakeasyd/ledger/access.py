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

from speakeasyd.errors import LedgerError
from speakeasyd.ledger.failures import (
    build_denied_error,
    build_read_only_error,
    explain_errors,
    explain_sqlite_error,
    find_denied,
    is_on_read_only_filesystem,
)
from speakeasyd.ledger.pairing import refuse_foreign_log

BUSY_S = 5.0  # seconds that a read waits for a lock
COPY_TRIES = 3  # attempts to copy a ledger that changes while it is copied


def require_readable(path: Path) -> None:
    """Check that the ledger can be read.

    Raises LedgerMissing if there is no ledger, LedgerDenied if this user may not read it.
    """
    with explain_errors(path):
        path.stat()
    if not os.access(path, os.R_OK):
        raise build_denied_error("read", path)


def require_writable(path: Path) -> None:
    """Check that the ledger can be changed.

    Raises LedgerError if there is no ledger or its filesystem is read-only, LedgerDenied if this
    user may not change it.
    """
    require_readable(path)
    if is_on_read_only_filesystem(path):
        raise build_read_only_error(path)
    if place := find_denied(path, os.W_OK):
        raise build_denied_error("change", place)


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
        connection = _connect_readonly(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise _explain_unreadable(path, error) from error
    except sqlite3.Error as error:
        raise _explain_unreadable(path, error) from error
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
    before = _read_signature(path)
    try:
        connection = _connect_readonly(path, "mode=ro&immutable=1")
    except sqlite3.Error as error:
        raise _explain_unreadable(path, error) from error
    with closing(connection):
        yield connection
    if _read_signature(path) != before:
        raise LedgerError(f"the ledger {path} was changed while it was read", hint="Try again.")


def _connect_readonly(path: Path, options: str) -> sqlite3.Connection:
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
        raise build_denied_error("read", log)
    for _ in range(COPY_TRIES):
        before = _read_signature(path)
        shutil.copyfile(path, copy)
        shutil.copyfile(log, f"{copy}-wal")
        if _read_signature(path) == before:
            try:
                return _connect_readonly(copy, "mode=rw")
            except sqlite3.Error as error:
                raise _explain_unreadable(path, error) from error
    shm = Path(f"{path}-shm")
    raise LedgerError(
        f"the ledger {path} changes all the time, and {shm} cannot be used",
        hint="The daemon is writing. Run this as its user, or as a user with access to that file.",
    )


def _read_signature(path: Path) -> tuple[tuple[int, int], ...]:
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


def _explain_unreadable(path: Path, error: sqlite3.Error) -> LedgerError:
    fallback = LedgerError(f"cannot read the ledger {path}: {error}")
    return explain_sqlite_error(error, path) or fallback
