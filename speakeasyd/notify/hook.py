"""A command of the user, run after a transcript."""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from subprocess import PIPE, TimeoutExpired
from typing import IO

from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, Outcome
from speakeasyd.process_group import ProcessGroup

TAIL_BYTES = 2000  # of the command's error output, kept for the message
TAIL_CHARACTERS = 500  # of it that are shown
READ_BYTES = 65_536  # in one read
READ_PAUSE_S = 0.01  # seconds between reads: a flood is slowed down to 6 MB/s
TAIL_GRACE_S = 2.0  # seconds for the rest of the error output once the group has been ended

PASSED_ON = frozenset(
    {
        *(
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "LANG",
            "LANGUAGE",
            "TZ",
            "TMPDIR",
            "TEMP",
            "TMP",
        ),
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"),
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "USERNAME"),
        *("APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "HOMEDRIVE", "HOMEPATH"),
    }
)
"""Variables of the daemon that a command gets, besides `LC_...`. Not the others: they may hold tokens and secrets."""


def select_environment(environ: Mapping[str, str], *, more: Iterable[str] = ()) -> dict[str, str]:
    """The daemon's variables that a command gets; `more`: names that the settings add."""
    wanted = PASSED_ON.union(more)
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in wanted or name in wanted or name.startswith("LC_")
    }


class HookRun:
    """One run of the command. `wait` blocks; `kill` may be called by any thread, before, during and after it."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], timeout_s: float
    ) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._group: ProcessGroup | None = None
        self._is_killed = False

    def wait(self) -> Outcome:
        """Run the command to its end, without a shell. A failure is final: it may have done half of its work."""
        try:
            group = self._start()
        except (OSError, ValueError) as error:
            return DeliveryFailed(f"{self._command[0]} cannot be run: {error}", final=True)
        if group is None:
            return DeliveryFailed("it was not started: the daemon stops")
        tail = _TailReader(group.process.stderr)
        try:
            status = group.process.wait(self._timeout_s)
        except TimeoutExpired:
            return DeliveryFailed(f"it was killed after {self._timeout_s:g} s", final=True)
        finally:
            group.kill()  # also what the command left in the background
            group.process.wait()
            last_words = tail.take_tail()
        if status == 0:
            return DeliverySucceeded()
        return DeliveryFailed(
            f"it ended with exit status {status}: {last_words}".rstrip(": "), final=True
        )

    def kill(self) -> None:
        """End the command with all that it started; one that has not begun does not begin."""
        with self._lock:
            self._is_killed = True
            if self._group:
                self._group.kill()

    def _start(self) -> ProcessGroup | None:
        with self._lock:
            if not self._is_killed:
                self._group = ProcessGroup(
                    self._command, environment=self._environment, stderr=PIPE
                )
            return self._group


class _TailReader:
    """Reads a pipe to its end and keeps its last bytes, in a thread: a full pipe would stop the command."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None  # noqa: S101 - it was asked for
        self._pipe = pipe
        self._tail = b""
        self._thread = threading.Thread(target=self._read, name="hook output", daemon=True)
        self._thread.start()

    def take_tail(self) -> str:
        """What was said last. Does not wait for a process that left the group and holds the pipe."""
        self._thread.join(TAIL_GRACE_S)
        text = self._tail.decode(errors="replace").strip()
        return text[-TAIL_CHARACTERS:]

    def _read(self) -> None:
        with self._pipe:
            while piece := os.read(self._pipe.fileno(), READ_BYTES):
                self._tail = (self._tail + piece)[-TAIL_BYTES:]
                time.sleep(READ_PAUSE_S)
