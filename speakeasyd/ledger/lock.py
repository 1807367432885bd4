"""The lock that allows one daemon per ledger.

It is a lock of the operating system, which releases it when the process ends in any way.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from speakeasyd.clock import format_utc
from speakeasyd.durable import create_private
from speakeasyd.errors import LedgerDenied, StartError
from speakeasyd.ledger.failures import explain_errors, explain_os_error

FILE_NAME = "daemon.lock"
TRIES = 4
PAUSE_S = 0.05  # seconds between two tries
# offset of the locked byte, far behind the content: Windows forbids reading a locked byte, and
# others must be able to read who holds the lock
LOCK_OFFSET = 1 << 30

if sys.platform == "win32":
    import msvcrt

    def _acquire_lock(file: BinaryIO) -> None:
        file.seek(LOCK_OFFSET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    _share_lock = _acquire_lock

    def _release_lock(file: BinaryIO) -> None:
        file.seek(LOCK_OFFSET)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire_lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _share_lock(file: BinaryIO) -> None:
        """Take a shared lock. Raises OSError while a daemon holds the lock.

        Readers do not exclude each other.
        """
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _release_lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds the lock."""

    pid: int
    host: str
    since: str  # UTC, ISO 8601
    up_s: float  # seconds since its start, by the monotonic clock

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class LedgerLock:
    """The lock of one ledger, held inside `with`.

    Raises StartError, naming the holder, if another process holds it.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        file = self._open_lock_file()
        try:
            _acquire_with_retries(file)
        except OSError as error:
            holder = _read_holder(file)
            file.close()
            who = f" ({holder})" if holder else ""
            raise StartError(
                f"another speakeasyd already uses {self._path.parent}{who}",
                hint="Stop it first, or give this one a state folder of its own.",
            ) from error
        try:
            with explain_errors(self._path):
                self._write_holder(file)
        except BaseException:
            with suppress(OSError):  # what could not be written cannot be flushed either
                file.close()
            raise
        self._file = file
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.truncate(0)
            _release_lock(self._file)
            self._file.close()
            self._file = None

    def _open_lock_file(self) -> BinaryIO:
        """Open the lock file. Raises StartError.

        It is never deleted: two processes that delete and re-create it could each lock a different
        file.
        """
        try:
            create_private(self._path)
            return os.fdopen(
                os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644),
                "r+b",
            )
        except OSError as error:
            raise explain_os_error(error, self._path) from error

    def _write_holder(self, file: BinaryIO) -> None:
        signature = {
            "pid": os.getpid(),
            "started_at": format_utc(datetime.now(UTC)),
            # of this machine: as long as the holder lives, the machine has not restarted
            "started_monotonic": time.monotonic(),
            "host": platform.node(),
            "command": sys.argv,
        }
        file.seek(0)
        file.truncate(0)
        file.write(json.dumps(signature).encode())
        file.flush()


def find_holder(state: Path) -> LockHolder | None:
    """Return the process that holds the lock of this state folder; None if no daemon runs.

    The lock is tested only if the file names a holder; a killed daemon leaves its name behind.
    Reading the file is enough. Raises LedgerDenied if this user may not read it.
    """
    try:
        file = (state / FILE_NAME).open("rb")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise LedgerDenied(
            f"this user may not read {state / FILE_NAME}, which shows whether a daemon runs",
            hint="Run this as the user of the daemon, or as a member of its group.",
        ) from error
    except OSError:
        return None
    with file:
        holder = _read_holder(file)
        if holder:
            try:
                _share_lock(file)
            except OSError:
                return holder
            _release_lock(file)
    return None


def _acquire_with_retries(file: BinaryIO) -> None:
    """Take the lock; retries for a moment, since a reader may hold it. Raises OSError."""
    for _ in range(TRIES):
        try:
            _acquire_lock(file)
        except OSError:
            time.sleep(PAUSE_S)
        else:
            return
    _acquire_lock(file)


def _seconds_up(signature: Mapping[str, Any]) -> float:
    began = signature.get("started_monotonic")
    if began is None:  # a daemon of an earlier version
        return max(0.0, time.time() - datetime.fromisoformat(signature["started_at"]).timestamp())
    return max(0.0, time.monotonic() - float(began))


def _read_holder(file: BinaryIO) -> LockHolder | None:
    """Return the holder that the file names; None if it is unreadable or being written."""
    try:
        file.seek(0)
        signature = json.loads(file.read(LOCK_OFFSET))
        since = signature["started_at"]
        return LockHolder(
            pid=signature["pid"], host=signature["host"], since=since, up_s=_seconds_up(signature)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
