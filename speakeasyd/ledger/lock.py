"""One daemon per ledger: a lock of the operating system, which ends with its process however that ends."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from speakeasyd.clock import format_utc
from speakeasyd.durable import create_private
from speakeasyd.errors import LedgerDenied, StartError

FILE_NAME = "daemon.lock"
TRIES = 4
PAUSE_S = 0.05  # seconds between them
FAR = (
    1 << 30
)  # the byte that is locked: Windows lets nobody read a locked byte, and the holder's name is to be read

if sys.platform == "win32":
    import msvcrt

    def _acquire(file: BinaryIO) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    _share = _acquire

    def _release(file: BinaryIO) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _share(file: BinaryIO) -> None:
        """Refused while somebody has taken it. Those who only look do not keep each other from it."""
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _release(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds the lock."""

    pid: int
    host: str
    since: str  # UTC, ISO 8601
    up_s: float  # seconds, by the clock that nobody sets

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class LedgerLock:
    """Held inside `with`. Raises StartError, naming the holder, when another process has it."""

    def __init__(self, state: Path) -> None:
        self._path = state / FILE_NAME
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        file = self._open_lock_file()
        try:
            _acquire_with_retries(file)
        except OSError as error:
            signed = _read_holder(file)
            file.close()
            raise StartError(
                f"another speakeasyd works on {self._path.parent} already{f' ({signed})' if signed else ''}",
                hint="Stop it first, or give this one a state folder of its own.",
            ) from error
        self._file = file
        self._write_holder(file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.truncate(0)
            _release(self._file)
            self._file.close()
            self._file = None

    def _open_lock_file(self) -> BinaryIO:
        """The file is never deleted: two that delete and create it could each hold a lock on a file of their own."""
        try:
            create_private(self._path)
            return os.fdopen(
                os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644),
                "r+b",
            )
        except OSError as error:
            raise StartError(f"cannot use the state folder {self._path.parent}: {error}") from error

    def _write_holder(self, file: BinaryIO) -> None:
        signature = {
            "pid": os.getpid(),
            "started_at": format_utc(datetime.now(UTC)),
            "started_monotonic": time.monotonic(),  # of the machine: its holder lives, so it has not started again
            "host": platform.node(),
            "command": sys.argv,
        }
        file.seek(0)
        file.truncate(0)
        file.write(json.dumps(signature).encode())
        file.flush()


def find_holder(state: Path) -> LockHolder | None:
    """Who works on this state folder now, for those who only want to know.

    The lock is tried only where there is a signature: one without a lock is what a killed daemon leaves. Reading is
    enough for that. Raises LedgerDenied where this user may not even read it: then nobody knows.
    """
    try:
        file = (state / FILE_NAME).open("rb")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise LedgerDenied(
            f"this user may not read {state / FILE_NAME}, which tells whether a daemon runs",
            hint="Ask as the user of the daemon, or as one of its group.",
        ) from error
    except OSError:
        return None
    with file:
        signed = _read_holder(file)
        if signed:
            try:
                _share(file)
            except OSError:
                return signed
            _release(file)
    return None


def _acquire_with_retries(file: BinaryIO) -> None:
    """Tried for a moment: somebody may have it who only looks."""
    for _ in range(TRIES):
        try:
            _acquire(file)
        except OSError:
            time.sleep(PAUSE_S)
        else:
            return
    _acquire(file)


def _seconds_up(signature: Mapping[str, Any]) -> float:
    began = signature.get("started_monotonic")
    if began is None:  # a daemon of an earlier version
        return max(0.0, time.time() - datetime.fromisoformat(signature["started_at"]).timestamp())
    return max(0.0, time.monotonic() - float(began))


def _read_holder(file: BinaryIO) -> LockHolder | None:
    """As far as can be told: the holder may be signing just now."""
    try:
        file.seek(0)
        signature = json.loads(file.read(FAR))
        since = signature["started_at"]
        return LockHolder(
            pid=signature["pid"], host=signature["host"], since=since, up_s=_seconds_up(signature)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
