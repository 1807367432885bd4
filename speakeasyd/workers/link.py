"""The contract between a supervisor and its worker, on whatever machine the worker's process is."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from speakeasyd.domain.protocol import Report, Request, WorkerSpec

KILLED = -9  # status of a process that was killed, or has ended with what it depends on


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a process ended."""

    status: int | None  # as `Process.exitcode`: negative for a signal; None if unknown
    error: str = ""  # an error of the pipe or of the start
    last_words: str = ""  # the end of its stderr
    short_of_memory: bool = False  # the OOM killer of its machine ended programs during its life


OnReports = Callable[[list[Report]], Coroutine[Any, Any, None]]
OnExit = Callable[[ProcessExit], Coroutine[Any, Any, None]]


class WorkerLink(Protocol):
    """A worker process and the way to it. All calls are made on the loop; none of them blocks."""

    @property
    def pid(self) -> int | None:
        """Its process id on its machine; None if unknown."""

    def start(self) -> None:
        """Start the process. Raises OSError if that is impossible; `on_exit` is not called then."""

    def send_request(self, request: Request) -> None:
        """Queue a request. Never raises, even if the worker is dead."""

    def kill(self) -> None:
        """Kill the process at once; `on_exit` follows. Idempotent."""

    def read_resident_bytes(self) -> int:
        """Return the latest known resident set size of the process in bytes; 0 if unknown."""


class ConnectWorker(Protocol):
    """Creates the link to a worker that is not started yet."""

    def __call__(
        self, name: str, spec: WorkerSpec, *, on_reports: OnReports, on_exit: OnExit
    ) -> WorkerLink:
        """Return the link. `on_reports` and `on_exit` are run on the loop, in order.

        `on_exit` is run once, last.
        """
