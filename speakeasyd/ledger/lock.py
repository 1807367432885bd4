"""One daemon per ledger: a lock that the operating system releases, however the daemon dies."""

import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from speakeasyd.clock import iso
from speakeasyd.errors import StartError

LOCKED_BYTE = 1 << 30  # far beyond the text: on Windows a locked range cannot be read by others

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LedgerLock:
    """Held while the daemon lives. Taking it twice raises StartError, which says who holds it."""

    def __init__(self, state: Path) -> None:
        self._path = state / "daemon.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> "LedgerLock":
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise StartError(f"{self._path.parent} is in use by {_describe(self._path)}", hint=HINT) from None
        self._descriptor = descriptor
        self._sign()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # releases the lock
            self._descriptor = None

    def _sign(self) -> None:
        assert self._descriptor is not None
        owner = {"pid": os.getpid(), "since": iso(datetime.now(UTC)), "host": socket.gethostname(), "command": sys.argv}
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(owner).encode())


HINT = "Stop it first, or give this one a state folder of its own (--state DIR)."


def holder(state: Path) -> dict[str, object] | None:
    """Who holds the lock; None when nobody does. For a moment at its start the answer may be empty."""
    path = state / "daemon.lock"
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        _lock(descriptor)
    except OSError:
        return _owner(path)
    finally:
        os.close(descriptor)
    return None


def _owner(path: Path) -> dict[str, object]:
    try:
        owner: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner


def _describe(path: Path) -> str:
    owner = _owner(path)
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, running since {owner.get('since', '?')}"
