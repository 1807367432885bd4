"""The command line with the real engine and CUDA faults: `python -m tests.torture.gpu_cli run`.

A worker reads the name of a kernel of `cuda_faults` from the file `cuda-fault` in the state folder,
and launches it in its own process when it starts the next chunk.
"""

import sys
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from speakeasyd import cli, daemon
from speakeasyd.domain.protocol import ChunkStarted, Report, WorkerSpec
from speakeasyd.engine.worker_host import serve_requests
from speakeasyd.workers.local_pool import LocalPool
from tests.torture.cuda_faults import CudaDriver
from tests.torture.scripted_cli import POLICY

FAULT_FILE = "cuda-fault"


class _FaultyConnection:
    """The worker's end of the pipe."""

    def __init__(self, conn: Connection, fault_file: Path) -> None:
        self._conn, self._fault_file = conn, fault_file

    def send(self, report: Report) -> None:
        self._conn.send(report)
        if isinstance(report, ChunkStarted):
            with suppress(FileNotFoundError):
                kernel = self._fault_file.read_text("utf-8")
                self._fault_file.unlink()
                CudaDriver().launch(kernel)

    def recv(self) -> Any:
        return self._conn.recv()


def serve_with_cuda_faults(conn: Connection, spec: WorkerSpec) -> int:
    faulty = _FaultyConnection(conn, Path(spec.state_dir) / FAULT_FILE)
    return serve_requests(faulty, spec)  # type: ignore[arg-type]


def main() -> int:
    target = f"tests.torture.gpu_cli:{serve_with_cuda_faults.__name__}"
    vars(daemon)["LocalPool"] = partial(LocalPool, target=target, policy=POLICY)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
