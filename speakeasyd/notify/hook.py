"""A command of the user, run after a transcript."""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from subprocess import PIPE, TimeoutExpired
from typing import IO

from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, Outcome
from speakeasyd.process_group import ProcessGroup

TAIL_BYTES = 2000  # bytes of the command's error output that are kept
TAIL_CHARACTERS = 500  # characters of it that the message shows
READ_BYTES = 65_536  # bytes in one read
READ_PAUSE_S = 0.01  # seconds between reads: limits the output to 6 MB/s
TAIL_GRACE_S = 2.0  # seconds for the rest of the error output after the group was killed

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
"""Environment variables that a command gets, besides `LC_...`; others may hold secrets."""


def select_environment(environ: Mapping[str, str], *, more: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables that a command gets; `more`: names that the settings add."""
    wanted = PASSED_ON.union(more)
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in wanted or name in wanted or name.startswith("LC_")
    }


class HookRun:
    """One run of the command. `wait` blocks; `kill` may be called at any time by any thread."""

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
        """Run the command to its end, without a shell.

        A failure is final, without a retry: the command may have done a part of its work.
        """
        try:
            group = self._start_command()
        except (OSError, ValueError) as error:
            return DeliveryFailed(f"{self._command[0]} cannot be run: {error}", final=True)
        if group is None:
            return DeliveryFailed("it was not started: the daemon is stopping")
        tail = _TailReader(group.process.stderr)
        try:
            status = group.process.wait(self._timeout_s)
        except TimeoutExpired:
            return DeliveryFailed(f"it was killed after {self._timeout_s:g} s", final=True)
        finally:
            group.kill()  # also what the command left in the background
            group.process.wait()
            error_output = tail.take_tail()
        if status == 0:
            return DeliverySucceeded()
        return DeliveryFailed(
            f"it ended with exit status {status}: {error_output}".rstrip(": "), final=True
        )

    def kill(self) -> None:
        """Kill the command and all that it started; a command that has not started never starts."""
        with self._lock:
            self._is_killed = True
            if self._group:
                self._group.kill()

    def _start_command(self) -> ProcessGroup | None:
        with self._lock:
            if not self._is_killed:
                self._group = ProcessGroup(
                    self._command, environment=self._environment, stderr=PIPE
                )
            return self._group


class _TailReader:
    """Reads a pipe in a thread and keeps its last bytes: a full pipe would block the command."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None  # noqa: S101 - opened with PIPE
        self._pipe = pipe
        self._tail = b""
        self._thread = threading.Thread(target=self._read, name="hook output", daemon=True)
        self._thread.start()

    def take_tail(self) -> str:
        """Return the end of the output, after at most `TAIL_GRACE_S`.

        A process that left the group may keep the pipe open.
        """
        self._thread.join(TAIL_GRACE_S)
        text = self._tail.decode(errors="replace").strip()
        return text[-TAIL_CHARACTERS:]

    def _read(self) -> None:
        with self._pipe:
            while piece := os.read(self._pipe.fileno(), READ_BYTES):
                self._tail = (self._tail + piece)[-TAIL_BYTES:]
                time.sleep(READ_PAUSE_S)
