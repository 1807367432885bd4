"""Targets of a pool: the real engine with an injected fault in the first worker of a state folder."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import ChunkDone, ChunkStarted, Loaded, Loading, Report, WorkerSpec
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.worker_host import serve_requests
from speakeasyd.testing import limit_memory

SPARE_BYTES = 5_000_000  # less than a model needs, to be loaded or for a window
UNSUPPORTED_ERROR = "cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"


class FaultyConnection:
    """The worker's end of the pipe. It calls `action` after the `nth` report of a kind, or each."""

    def __init__(
        self,
        conn: Connection,
        kind: type[Report],
        action: Callable[[], object],
        *,
        nth: int | None = 1,
    ) -> None:
        """`nth`: None: after each report of the kind."""
        self._conn, self._kind, self._action, self._nth = conn, kind, action, nth
        self._count = 0

    def send(self, report: Report) -> None:
        self._conn.send(report)
        if isinstance(report, self._kind):
            self._count += 1
            if self._nth in {None, self._count}:
                self._action()

    def recv(self) -> Any:
        return self._conn.recv()


def serve_short_of_memory_for_loading(conn: Connection, spec: WorkerSpec) -> int:
    return _serve_faulty(conn, spec, Loading, lambda: limit_memory(SPARE_BYTES))


def serve_short_of_memory_for_work(conn: Connection, spec: WorkerSpec) -> int:
    return _serve_faulty(conn, spec, Loaded, lambda: limit_memory(SPARE_BYTES))


def serve_and_stop_process(conn: Connection, spec: WorkerSpec) -> int:
    return _serve_faulty(conn, spec, ChunkDone, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def serve_with_refused_operation(conn: Connection, spec: WorkerSpec) -> int:
    """Fail on the thread of a replica, as cuBLAS refuses int8 on some GPUs."""
    return _serve_faulty(conn, spec, ChunkStarted, _raise_unsupported, nth=2)


def serve_with_incompatible_library(conn: Connection, spec: WorkerSpec) -> int:
    """Every worker fails, as after a new major version of a library."""

    def open_without_options(_file: object) -> None: ...

    av.open = open_without_options
    return serve_requests(conn, spec)


def _serve_faulty(
    conn: Connection,
    spec: WorkerSpec,
    kind: type[Report],
    action: Callable[[], object],
    *,
    nth: int = 1,
) -> int:
    try:
        (Path(spec.state_dir) / "was-faulty").touch(exist_ok=False)
    except FileExistsError:
        return serve_requests(conn, spec)
    faulty = FaultyConnection(conn, kind, action, nth=nth)
    return serve_requests(faulty, spec)  # type: ignore[arg-type]


def _raise_unsupported() -> None:
    raise EngineFault(Phase.GENERATE, RuntimeError(UNSUPPORTED_ERROR))
