"""Why the ledger could not be used: not there, not allowed, read-only, full, held by another program, or damaged.

Quick to import: no SQLAlchemy here.
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from speakeasyd.errors import (
    LedgerDenied,
    LedgerError,
    LedgerFull,
    LedgerHeld,
    LedgerMissing,
    LedgerReadOnly,
    LedgerUnwritable,
)
from speakeasyd.ledger.locks import describe_hold
from speakeasyd.mounts import explain_read_only

_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OF_ITS_PLACE = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_FULL_ERRNOS = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name)
)
_DENIED_ERRNOS = frozenset({errno.EACCES, errno.EPERM})
_MISSING_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR})

LEAST_ROOM_BYTES = 64 * 1024  # two blocks of the index of the log
_HINT_FULL = "Make room on that disk; nothing is lost."


def explain_sqlite_error(error: Exception, path: Path) -> LedgerError | None:
    """Return the error of the ledger for an error of SQLite; None for others, such as a wrong query."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the upper bits only tell sub-kinds
    if code in _HELD:
        return LedgerHeld(describe_hold(path), hint="Work resumes by itself after that.")
    if code in _DAMAGED:
        return LedgerError(
            f"the ledger is damaged: {error}",
            hint=(
                "Stop the daemon and restore a copy, such as one from the folder 'backups' "
                "beside the ledger: speakeasyd ledger restore FILE. "
                "To see what is wrong: speakeasyd ledger check"
            ),
        )
    if code in _OF_ITS_PLACE:
        return _explain_place(path, code, error)
    return None


def build_sqlite_error(error: sqlite3.Error, ledger: Path, action: str) -> LedgerError:
    """Return the error of the ledger for any error of SQLite. `action`: such as "copied"."""
    unknown = LedgerError(
        f"the ledger cannot be {action}: {error}", hint="See: speakeasyd ledger check"
    )
    return explain_sqlite_error(error, ledger) or unknown


def _explain_place(path: Path, code: int, error: Exception) -> LedgerError:
    """SQLite tells little: "unable to open database file" may mean each of these."""
    if code == sqlite3.SQLITE_FULL:
        return build_full_error(path)
    try:
        path.stat()
    except OSError as gone:
        return explain_os_error(gone, path)
    if is_on_read_only_filesystem(path):
        return build_read_only_error(path)
    if _has_no_room(path.parent):
        return build_full_error(path)
    if place := find_denied(path, os.R_OK | os.W_OK):
        return build_denied_error(_name_denied_use(place), place)
    return _explain_system(path, code, error)


def _explain_system(path: Path, code: int, error: Exception) -> LedgerError:
    match code:
        case sqlite3.SQLITE_NOMEM:
            what = "there was not enough memory for the ledger"
            hint = "Close other programs."
        case sqlite3.SQLITE_IOERR:
            what = f"the disk of the ledger {path} failed: {error}"
            hint = "The system's log says more (dmesg). Back it up: speakeasyd ledger backup FILE"
        case _:
            what = f"the ledger {path} cannot be used just now: {error}"
            hint = "Was its disk full, read-only or gone?"
    return LedgerUnwritable(what, hint=hint)


def explain_os_error(error: OSError, path: Path) -> LedgerError:
    """Return the error of the ledger for a refusal of the system at `path`."""
    if error.errno in _MISSING_ERRNOS:
        return build_missing_error(path)
    if error.errno in _DENIED_ERRNOS:
        place = find_denied(path, os.R_OK | os.W_OK) or path.parent
        return build_denied_error(_name_denied_use(place), place)
    if error.errno == errno.EROFS:
        return build_read_only_error(path)
    if error.errno in _FULL_ERRNOS:
        return build_full_error(path)
    reason = error.strerror or str(error)
    return LedgerUnwritable(f"the state folder {path.parent} cannot be used: {reason}")


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Translate an OSError inside into the error of the ledger at `path`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path) from error


_FIRST_START = (
    "The daemon creates it at its first start: speakeasyd run. If it has another state folder, give "
    "it with --state DIR, or its configuration with --config FILE."
)


def build_missing_error(path: Path) -> LedgerMissing:
    if path.parent.is_dir():
        return LedgerMissing(
            f"there is no ledger {path}",
            hint=_FIRST_START,
        )
    return LedgerMissing(
        f"there is no state folder {path.parent}",
        hint=_FIRST_START,
    )


def build_denied_error(action: str, place: Path) -> LedgerDenied:
    """`action`: what was refused, such as "read"."""
    return LedgerDenied(f"this user may not {action} {place}", hint=_suggest_user(place))


def build_read_only_error(path: Path) -> LedgerReadOnly:
    return LedgerReadOnly(
        f"{path} is on a read-only filesystem",
        hint=explain_read_only(path.parent)
        or "The ledger can only be read there. To change it, mount the filesystem writable.",
    )


def build_full_error(path: Path) -> LedgerFull:
    free = ""
    with suppress(OSError):
        free = f" ({shutil.disk_usage(path.parent).free >> 10} KiB are free)"
    return LedgerFull(f"the disk of {path} is full{free}", hint=_HINT_FULL)


def _name_denied_use(place: Path) -> str:
    if place.is_dir() and not os.access(place, os.X_OK):
        return "open"
    return "change" if os.access(place, os.R_OK) else "read"


def find_denied(path: Path, access: int) -> Path | None:
    """Return the first of the ledger's folder and files to which this user has no such access."""
    folder = path.parent
    if folder.exists() and not os.access(folder, access | os.X_OK):
        return folder
    files = (path, Path(f"{path}-wal"), Path(f"{path}-shm"))
    return next(
        (file for file in files if os.path.lexists(file) and not os.access(file, access)), None
    )


def is_on_read_only_filesystem(path: Path) -> bool:
    statvfs = getattr(os, "statvfs", None)
    return statvfs is not None and bool(statvfs(path).f_flag & os.ST_RDONLY)


def _has_no_room(folder: Path) -> bool:
    """Whether not even the smallest of the ledger's files fits: SQLite says "disk I/O error" then."""
    try:
        return shutil.disk_usage(folder).free < LEAST_ROOM_BYTES
    except OSError:
        return False


def _suggest_user(place: Path) -> str:
    owner = find_owner(place)
    if not owner:
        return "Do it as the user of the daemon."
    if _is_ours(place):
        return f"It is yours: chmod u+rwX {place}"
    return f"Do it as {owner}: sudo -u {owner} speakeasyd ..."


def _is_ours(place: Path) -> bool:
    uid = getattr(os, "getuid", None)
    try:
        return uid is not None and place.stat().st_uid == uid()
    except OSError:
        return False


def find_owner(place: Path) -> str:
    """Return the name of the user who owns a file; empty if it is unknown."""
    try:
        return place.owner()
    except (OSError, KeyError, NotImplementedError):
        return ""
