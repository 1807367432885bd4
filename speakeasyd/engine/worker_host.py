"""The main loop of a worker process: takes requests, sends reports, and exits after a fault."""

import gc
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from speakeasyd.domain.fault import Phase, classify_fault
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
    WorkerSpec,
)
from speakeasyd.domain.stepdown import step_down
from speakeasyd.domain.worker_exit import EXIT_FAULT, EXIT_ORPHAN
from speakeasyd.engine import cuda, heap_retention
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import InFlight, Pipeline
from speakeasyd.engine.recognizer import AnyRecognizer, Model

REST_S = 1.0  # seconds between freeing a model and the next load: drivers free memory late
_MAX_READERS = 8


def serve_requests(conn: Connection, spec: WorkerSpec) -> int:
    """Serve requests until `Drain`. Returns the exit status for `os._exit`.

    A normal exit would free the model, which can abort the process. Ends the process without
    returning when the pipe closes or after a fault was reported.
    """
    return WorkerHost(conn=conn, spec=spec).run()


class _Idle:
    """Wakes the main thread when the pipeline is empty."""


@dataclass(frozen=True, slots=True)
class _SoftRestart:
    """Tells the main thread to load the model again, with smaller settings."""

    model: str
    spec: WorkerSpec


class WorkerHost:
    """Requests, model and faults of a worker process.

    The main thread owns the model; one thread reads the pipe; the pipeline's threads send reports.
    """

    def __init__(
        self, *, conn: Connection, spec: WorkerSpec, leave: Callable[[int], object] = os._exit
    ) -> None:
        self._conn, self._spec, self._leave = conn, spec, leave
        self._sending, self._faulting = threading.Lock(), threading.Lock()
        # A soft restart was reported: more faults of the same kind belong to it
        self._restarting = False
        self._inbound: queue.SimpleQueue[Request | _Idle | _SoftRestart] = queue.SimpleQueue()
        self._tasks: deque[Task] = deque()  # tasks that wait for another model
        self._model: str | None = None
        self._pipeline: Pipeline | None = None
        self._recognizer: AnyRecognizer | None = None

    def run(self) -> int:
        """Serve requests; see `serve_requests`."""
        threading.Thread(target=self._read_requests, name="pipe", daemon=True).start()
        self._send(Hello(os.getpid()))
        try:
            self._preload_model()
            self._process_requests()
        except EngineFault as fault:
            self._report_and_exit(fault, ())
        return 0

    def _preload_model(self) -> None:
        """Load the model that the first task will need. If that fails, the task will tell."""
        if self._spec.preload:
            with suppress(EngineFault):
                self._load_model(self._spec.preload)

    def _process_requests(self) -> None:
        while True:
            match self._inbound.get():
                case Task() as task:
                    self._tasks.append(task)
                case Drop(job_id):
                    self._tasks = deque(task for task in self._tasks if task.job_id != job_id)
                    if self._pipeline:
                        self._pipeline.drop(job_id)
                case Drain():
                    if self._pipeline:
                        self._pipeline.stop()
                    self._send(Drained())
                    return
                case _SoftRestart() as wanted:
                    self._restart_model(wanted)
                case _Idle():
                    pass
            self._submit_waiting_tasks()

    def _submit_waiting_tasks(self) -> None:
        """Submit waiting tasks to the pipeline; tasks of another model wait until it is empty."""
        while self._tasks:
            wanted = self._tasks[0].options.model
            if self._pipeline and wanted != self._model:
                if not self._pipeline.idle:
                    return
                self._unload_model()
            pipeline = self._pipeline or self._load_model(wanted)
            pipeline.submit(self._tasks.popleft())

    def _load_model(self, requested: str) -> Pipeline:
        """Load the model with the settings or smaller ones. Raises EngineFault if none work."""
        while not (model := self._try_load_model(requested)):
            _free_memory()
        self._model = requested
        self._recognizer = model.recognizer
        self._pipeline = Pipeline(
            recognizer=model.recognizer,
            replicas=model.replicas,
            batch_size=model.batch_size,
            readers=min(_MAX_READERS, os.cpu_count() or 1),
            folders=self._spec.folders,
            send=self._send,
            on_fault=self._on_pipeline_fault,
            on_idle=lambda: self._inbound.put(_Idle()),
        )
        self._send(model.loaded)
        return self._pipeline

    def _try_load_model(self, requested: str) -> Model | None:
        """Return the model; None if it failed and smaller settings can be tried.

        Raises EngineFault if there are no smaller settings.
        """
        self._send(Loading(requested))
        try:
            return load_model(requested, self._spec, on_progress=self._send)
        except EngineFault as fault:
            if not (smaller := self._find_smaller_settings(fault)):
                raise
            self._send(Fault(fault.phase, str(fault), (), soft=True))
            self._spec = smaller
            return None

    def _unload_model(self) -> None:
        if self._pipeline and self._pipeline.idle:
            self._pipeline.stop()
            self._free_model()
            gc.collect()
            heap_retention.return_freed_pages()

    def _free_model(self) -> None:
        """Free the model of a stopped pipeline."""
        if self._recognizer:
            self._recognizer.free()
        self._pipeline = self._recognizer = self._model = None

    # --- faults ---

    def _find_smaller_settings(self, fault: EngineFault) -> WorkerSpec | None:
        """Return smaller settings for a soft restart; None if the process has to end.

        The daemon computes the same step for its next worker.
        """
        return step_down(
            self._spec,
            classify_fault(phase=fault.phase, error=str(fault), device=self._spec.device).remedy,
        )

    def _on_pipeline_fault(self, fault: EngineFault, in_flight: InFlight) -> None:
        """Report the fault, then restart softly or exit. Called on a thread of the pipeline.

        The report comes first, because a clean-up in a damaged process may end it.
        """
        with self._faulting:
            smaller = self._find_smaller_settings(fault)
            if not smaller:
                self._report_and_exit(fault, in_flight)
            elif self._model and not self._restarting:
                self._restarting = True
                self._send(Fault(fault.phase, str(fault), in_flight, soft=True))
                self._inbound.put(_SoftRestart(self._model, smaller))

    def _report_and_exit(self, fault: EngineFault, in_flight: InFlight) -> None:
        try:
            trace = "".join(traceback.format_exception(fault))
            self._send(Fault(fault.phase, str(fault), in_flight, traceback=trace))
        finally:
            self._leave(EXIT_FAULT)

    def _restart_model(self, wanted: _SoftRestart) -> None:
        """Free the model, load it again, and continue each task where it was."""
        tasks = self._pipeline.stop_and_return_tasks() if self._pipeline else []
        self._free_model()
        self._spec, self._restarting = wanted.spec, False
        _free_memory()
        pipeline = self._load_model(wanted.model)
        for task in tasks:
            pipeline.submit(task)

    # --- the pipe ---

    def _send(self, report: Report) -> None:
        try:
            with self._sending:
                self._conn.send(report)
        except OSError:
            self._leave(EXIT_ORPHAN)

    def _read_requests(self) -> None:
        """Read requests from the pipe. A closed pipe means that the daemon is gone: exit."""
        try:
            while True:
                self._inbound.put(self._conn.recv())
        except (EOFError, OSError):
            self._leave(EXIT_ORPHAN)
        except Exception as error:  # noqa: BLE001 - unpickling may raise anything, and ends the reader
            self._report_and_exit(EngineFault(Phase.HOST, error), ())


def _free_memory() -> None:
    gc.collect()
    cuda.release_torch_cache()
    time.sleep(REST_S)
