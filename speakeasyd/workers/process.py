"""One worker process: started by spawn, spoken to by pipe, buried properly."""

import multiprocessing
import queue
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from speakeasyd.domain.protocol import Report, Request, WorkerSpec
from speakeasyd.loop import MainLoop
from speakeasyd.workers import child

LEAVE_S = 3.0  # seconds from the pipe's end to the process's, before it is killed
_BATCH = 256  # reports handed over together at most
_LAST_WORDS = 4096  # bytes


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a process ended."""

    status: int | None  # as `Process.exitcode`: negative for a signal; None if it says nothing
    error: str = ""  # what was wrong with the pipe, or with the start
    last_words: str = ""  # the end of what it wrote to stderr


OnReports = Callable[[list[Report]], Coroutine[Any, Any, None]]
OnExit = Callable[[ProcessExit], Coroutine[Any, Any, None]]


class WorkerProcess:
    """Two threads serve the pipe, so that neither a full pipe nor a stopped child can hold up the loop.

    `on_reports` and `on_exit` are run on the loop, in order; `on_exit` once, last, when the process has been reaped.
    """

    def __init__(
        self,
        *,
        name: str,
        spec: WorkerSpec,
        target: str,
        main_loop: MainLoop,
        on_reports: OnReports,
        on_exit: OnExit,
    ) -> None:
        self._log = Path(spec.state_dir) / "workers" / f"{name}.log"
        self._main_loop, self._on_reports, self._on_exit = main_loop, on_reports, on_exit
        self._outbound: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")
        self._conn, self._childs_end = context.Pipe()
        self._process = context.Process(
            target=child.run_child,
            args=(self._childs_end, spec, target, str(self._log)),
            name=name,
            daemon=True,
        )
        self._reader = threading.Thread(target=self._run_reader, name=f"{name}-reader", daemon=True)
        self._writer = threading.Thread(target=self._run_writer, name=f"{name}-writer", daemon=True)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self) -> None:
        """Call it on the main thread: Linux ends a child that asked for it when the *thread* that began it ends."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with _hide_main_module():
            self._process.start()
        self._childs_end.close()  # else the pipe would never end
        self._reader.start()
        self._writer.start()

    def send_request(self, request: Request) -> None:
        """Never blocks, never raises: what a dead worker was to do is in its supervisor's books."""
        self._outbound.put(request)

    def kill(self) -> None:
        """At once, also when it is stopped. A worker has nothing to tidy up, so it is not asked first."""
        with suppress(OSError):
            self._process.kill()

    # --- the reader's thread

    def _run_reader(self) -> None:
        torn = _deliver_reports(
            self._conn,
            lambda reports: self._main_loop.schedule_from_thread(self._on_reports, reports),
        )
        if torn:
            self.kill()
        status = self._wait_for_exit()
        self._outbound.put(None)
        self._writer.join(LEAVE_S)
        self._conn.close()
        if torn:  # the status is that of our own kill
            gone = ProcessExit(None, f"half a message came: {torn}", _read_tail(self._log))
        else:
            gone = ProcessExit(status, "", _read_tail(self._log))
        self._main_loop.schedule_from_thread(self._on_exit, gone)

    def _wait_for_exit(self) -> int:
        """Wait for the end of the process, or bring it about. Returns its exit status."""
        self._process.join(LEAVE_S)
        while (status := self._process.exitcode) is None:
            self.kill()
            self._process.join(LEAVE_S)
        return status

    # --- the writer's thread

    def _run_writer(self) -> None:
        with suppress(OSError):  # the reader sees the end, too
            while request := self._outbound.get():
                self._conn.send(request)


def _deliver_reports(conn: Connection, deliver: Callable[[list[Report]], None]) -> str | None:
    """Deliver reports, as many at once as are there, until the pipe ends. Returns what was wrong with the last."""
    while True:
        reports: list[Report] = []
        try:
            reports.append(conn.recv())
            while len(reports) < _BATCH and conn.poll():
                reports.append(conn.recv())
        except EOFError:
            return None
        except OSError as error:  # half a message, or a system's other way to say EOF
            return str(error) if "during message" in str(error) else None
        except Exception as error:  # noqa: BLE001 - unpickling raises anything
            return f"{type(error).__name__}: {error}"
        finally:
            if reports:
                deliver(reports)


def _read_tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_WORDS))
        return file.read().decode(errors="replace").strip()
    return ""


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Spawn runs the parent's main module again in the child: here the command line, or an unguarded script of a user.

    The worker needs none of it, so there is none to be found while it starts.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
