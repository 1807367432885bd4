"""The command line with the real engine and CUDA faults: `python -m tests.torture.gpu_cli run`.

A worker reads the name of a kernel of `cuda_faults` from the file `cuda-fault` in the state folder,
and launches it in its own process when it starts the next chunk.
"""

import sys
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from speakeasyd import cli, daemon
from speakeasyd.domain.protocol import ChunkStarted, WorkerSpec
from speakeasyd.engine.worker_host import serve_requests
from speakeasyd.workers.local_pool import LocalPool
from tests.integration.faulty_engine import FaultyConnection
from tests.torture.cuda_faults import CudaDriver
from tests.torture.scripted_cli import POLICY

FAULT_FILE = "cuda-fault"


def serve_with_cuda_faults(conn: Connection, spec: WorkerSpec) -> int:
    launch = partial(_launch_ordered_kernel, Path(spec.state_dir) / FAULT_FILE)
    faulty = FaultyConnection(conn, ChunkStarted, launch, nth=None)
    return serve_requests(faulty, spec)  # type: ignore[arg-type]


def _launch_ordered_kernel(fault_file: Path) -> None:
    with suppress(FileNotFoundError):
        kernel = fault_file.read_text("utf-8")
        fault_file.unlink()
        CudaDriver().launch(kernel)


def main() -> int:
    target = f"tests.torture.gpu_cli:{serve_with_cuda_faults.__name__}"
    vars(daemon)["LocalPool"] = partial(LocalPool, target=target, policy=POLICY)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
