"""The worker process from inside: requests in, reports out, and a quick way out when something is wrong."""

import gc
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection

from speakeasyd.domain.protocol import (
    Drain,
    Drained,
    Drop,
    Fault,
    Hello,
    Loading,
    Report,
    Request,
    Task,
    Unload,
    Unloaded,
    WorkerSpec,
)
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import load
from speakeasyd.engine.pipeline import InFlight, Pipeline

EXIT_FAULT = 70  # a fault was reported; the process is not to be trusted any more
EXIT_ORPHAN = 71  # the daemon is gone
_MAX_READERS = 8


def serve(conn: Connection, spec: WorkerSpec) -> int:
    """Work until told to drain. Returns the exit status; leave by `os._exit`, since freeing a model can abort.

    Leaves by itself, without returning, when the pipe closes or after a fault was reported.
    """
    return Host(conn=conn, spec=spec).run()


class _Idle:
    """Wakes the main thread when the pipeline has run empty."""


class Host:
    """The main thread owns the model; a thread reads the pipe; the pipeline's threads report."""

    def __init__(self, *, conn: Connection, spec: WorkerSpec, leave: Callable[[int], object] = os._exit) -> None:
        self._conn, self._spec, self._leave = conn, spec, leave
        self._sending = threading.Lock()
        self._inbound: queue.SimpleQueue[Request | _Idle] = queue.SimpleQueue()
        self._tasks: deque[Task] = deque()  # for another model than the one that is at work
        self._model: str | None = None
        self._pipeline: Pipeline | None = None

    def run(self) -> int:
        threading.Thread(target=self._listen, name="pipe", daemon=True).start()
        self._send(Hello(os.getpid()))
        try:
            self._work()
        except EngineFault as fault:
            self._fault(fault, ())
        return 0

    def _work(self) -> None:
        while True:
            match self._inbound.get():
                case Task() as task:
                    self._tasks.append(task)
                case Drop(job_id):
                    self._tasks = deque(task for task in self._tasks if task.job_id != job_id)
                    if self._pipeline:
                        self._pipeline.drop(job_id)
                case Unload():
                    if not self._tasks:
                        self._unload()
                case Drain():
                    if self._pipeline:
                        self._pipeline.stop()
                    self._send(Drained())
                    return
                case _Idle():
                    pass
            self._hand_over()

    def _hand_over(self) -> None:
        """Give waiting tasks to the pipeline; tasks of another model wait until it has run empty."""
        while self._tasks:
            wanted = self._tasks[0].options.model
            if self._pipeline and wanted != self._model:
                if not self._pipeline.idle:
                    return
                self._unload()
            if not self._pipeline:
                self._load(wanted)
            assert self._pipeline  # noqa: S101 - narrows the type
            self._pipeline.submit(self._tasks.popleft())

    def _load(self, requested: str) -> None:
        self._send(Loading(requested))
        model = load(requested, self._spec)
        self._model = requested
        self._pipeline = Pipeline(
            decoder=model.decoder,
            replicas=model.replicas,
            batch_size=model.batch_size,
            readers=min(_MAX_READERS, os.cpu_count() or 1),
            send=self._send,
            on_fault=self._fault,
            on_idle=lambda: self._inbound.put(_Idle()),
        )
        self._send(model.loaded)

    def _unload(self) -> None:
        if self._pipeline and self._pipeline.idle:
            self._pipeline.stop()
            self._pipeline = self._model = None
            gc.collect()
            self._send(Unloaded())

    def _fault(self, fault: EngineFault, in_flight: InFlight) -> None:
        """Report first: any clean-up in a damaged process may kill it."""
        self._send(Fault(fault.phase, str(fault), in_flight))
        self._leave(EXIT_FAULT)

    def _send(self, report: Report) -> None:
        try:
            with self._sending:
                self._conn.send(report)
        except OSError:
            self._leave(EXIT_ORPHAN)

    def _listen(self) -> None:
        """The pipe's reader. A closed pipe means that nobody waits for results any more."""
        try:
            while True:
                self._inbound.put(self._conn.recv())
        except (EOFError, OSError):
            self._leave(EXIT_ORPHAN)
