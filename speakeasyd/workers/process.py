"""One worker process: started by spawn, connected by a pipe, and always reaped."""

import queue
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

from speakeasyd.loop import MainLoop
from speakeasyd.workers.link import OnExit, ProcessExit
from speakeasyd.workers.liveness import count_oom_kills
from speakeasyd.workers.spawn import SpawnedWorker

LEAVE_S = 3.0  # seconds to exit after the pipe is closed, before the process is killed
_BATCH = 256  # reports delivered together, at most
_LAST_OUTPUT = 4096  # bytes of the log's end


SentT = TypeVar("SentT")  # messages to the process, such as `Request`
ReceivedT = TypeVar("ReceivedT")  # messages of the process, such as `Report`


class WorkerProcess(Generic[SentT, ReceivedT]):
    """A worker process of this machine and the two threads that serve its pipe.

    With threads, neither a full pipe nor a stopped child can block the loop. `on_reports` and
    `on_exit` are run on the loop, in order; `on_exit` once, last, when the process was reaped.
    """

    def __init__(
        self,
        spawn: Callable[[], SpawnedWorker],
        *,
        name: str,
        main_loop: MainLoop,
        on_reports: Callable[[list[ReceivedT]], Coroutine[Any, Any, None]],
        on_exit: OnExit,
    ) -> None:
        self._spawn = spawn
        self._main_loop, self._on_reports, self._on_exit = main_loop, on_reports, on_exit
        self._outbound: queue.SimpleQueue[SentT | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._run_reader, name=f"{name}-reader", daemon=True)
        self._writer = threading.Thread(target=self._run_writer, name=f"{name}-writer", daemon=True)

    @property
    def pid(self) -> int | None:
        return self._worker.process.pid

    def start(self) -> None:
        """Start the process and its threads. See `spawn_worker`."""
        self._oom_kills = count_oom_kills()
        self._worker = self._spawn()
        self._writer.start()
        self._reader.start()  # last: it waits for the writer, at once if the process has ended

    def send_request(self, request: SentT) -> None:
        """Queue a request. Never blocks or raises, even if the worker is dead."""
        self._outbound.put(request)

    def kill(self) -> None:
        """See `SpawnedWorker.kill`."""
        self._worker.kill()

    def read_resident_bytes(self) -> int:
        """Return the resident set size of the process in bytes; 0 if it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    # --- the reader's thread

    def _run_reader(self) -> None:
        pipe_error = _deliver_reports(
            self._worker.conn,
            lambda reports: self._main_loop.schedule_from_thread(self._on_reports, reports),
        )
        if pipe_error:
            self.kill()
        status = self._wait_for_exit()
        self._outbound.put(None)
        self._writer.join(LEAVE_S)
        self._worker.conn.close()
        process_exit = ProcessExit(
            None if pipe_error else status,  # with an error, it is that of our own kill
            f"a message was incomplete: {pipe_error}" if pipe_error else "",
            _read_tail(self._worker.log),
            short_of_memory=count_oom_kills() > self._oom_kills,
        )
        self._main_loop.schedule_from_thread(self._on_exit, process_exit)

    def _wait_for_exit(self) -> int:
        """Wait for the process to exit, and kill it after `LEAVE_S`. Returns its exit status."""
        self._worker.process.join(LEAVE_S)
        while (status := self._worker.process.exitcode) is None:
            self.kill()
            self._worker.process.join(LEAVE_S)
        return status

    # --- the writer's thread

    def _run_writer(self) -> None:
        with suppress(OSError):  # the reader notices a closed pipe, too
            while request := self._outbound.get():
                self._worker.conn.send(request)


def _deliver_reports(conn: Connection, deliver: Callable[[list[ReceivedT]], None]) -> str | None:
    """Deliver reports in batches until the pipe closes. Returns the error of the last message.

    None if the pipe was closed between two messages.
    """
    while True:
        reports: list[ReceivedT] = []
        try:
            reports.append(conn.recv())
            while len(reports) < _BATCH and conn.poll():
                reports.append(conn.recv())
        except EOFError:
            return None
        except OSError as error:  # the system's errors mean EOF; an incomplete message has no errno
            return str(error) if error.errno is None else None
        except Exception as error:  # noqa: BLE001 - unpickling raises anything
            return f"{type(error).__name__}: {error}"
        finally:
            if reports:
                deliver(reports)


def _read_tail(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST_OUTPUT))
        return file.read().decode(errors="replace").strip()
    return ""
