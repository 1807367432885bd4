"""The real engine with something done to it, as targets of a pool: only to the first worker of a state folder."""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import ChunkDone, ChunkStarted, Loaded, Loading, Report, WorkerSpec
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.worker_host import serve_requests

FIT_TO_READ = 40_000_000  # bytes that are enough for the decoder, not for the model
UNSUPPORTED = "cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"


class Watched:
    """The worker's end of the pipe; `deed` is done when the `nth` report of a kind has been sent."""

    def __init__(
        self, conn: Connection, kind: type[Report], deed: Callable[[], object], *, nth: int = 1
    ) -> None:
        self._conn, self._kind, self._deed, self._left = conn, kind, deed, nth

    def send(self, report: Report) -> None:
        self._conn.send(report)
        if isinstance(report, self._kind):
            self._left -= 1
            if self._left == 0:
                self._deed()

    def recv(self) -> Any:
        return self._conn.recv()


def short_of_memory_to_load(conn: Connection, spec: WorkerSpec) -> int:
    return _serve(conn, spec, Loading, lambda: _allow(FIT_TO_READ))


def short_of_memory_to_work(conn: Connection, spec: WorkerSpec) -> int:
    return _serve(conn, spec, Loaded, lambda: _allow(FIT_TO_READ))


def stopped_at_work(conn: Connection, spec: WorkerSpec) -> int:
    return _serve(conn, spec, ChunkDone, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def refused_at_work(conn: Connection, spec: WorkerSpec) -> int:
    """As cuBLAS refuses int8 on some GPUs: in the middle, on the thread of a replica."""
    return _serve(conn, spec, ChunkStarted, _refuse, nth=2)


def of_another_version(conn: Connection, spec: WorkerSpec) -> int:
    """As with a library whose next major version has another signature: every worker fails on it."""

    def open_without_options(_file: object) -> None: ...

    av.open = open_without_options
    return serve_requests(conn, spec)


def _serve(
    conn: Connection,
    spec: WorkerSpec,
    kind: type[Report],
    deed: Callable[[], object],
    *,
    nth: int = 1,
) -> int:
    try:
        (Path(spec.state_dir) / "hurt").touch(exist_ok=False)
    except FileExistsError:
        return serve_requests(conn, spec)
    return serve_requests(Watched(conn, kind, deed, nth=nth), spec)  # type: ignore[arg-type] # what the engine needs of one


def _refuse() -> None:
    raise EngineFault(Phase.GENERATE, RuntimeError(UNSUPPORTED))


def _allow(more: int) -> None:
    """Let the process have so many bytes of address space more than it has now."""
    if sys.platform != "win32":
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
