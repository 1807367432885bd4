"""Injects real CUDA faults into the worker of a daemon that uses a GPU, with the bundled model."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial

from tests.torture.cuda_faults import KERNELS, start_memory_filler
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.gpu_cli import FAULT_FILE
from tests.torture.kills import wait_for_committed_chunk
from tests.torture.real_engine import create_recordings, drop_files, transcribe_files
from tests.torture.scenario import Run, Scenario

PROGRAM = "tests.torture.gpu_cli"
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "workers": {"device": "cuda:0"},
    "watch": {"duplicates": "transcribe"},
    "recovery": {"stall_s": 5},  # seconds for each task; an endless kernel is found after these
}
BACKLOG = 4  # unfinished files that there always are


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def launch_faulty_kernel(run: Run, *, kernel: str) -> None:
    """Launch the kernel in the worker's process while it works. All texts must be right."""
    files = create_recordings(run)
    texts = transcribe_files(run, files, settings=SETTINGS)
    with run.create_daemon(program=PROGRAM, settings=SETTINGS) as daemon:
        drop_files(daemon, files, texts, backlog=BACKLOG)
        daemon.start()
        for number in run.count_rounds(2):
            wait_for_committed_chunk(daemon)
            drop_files(daemon, files, texts, backlog=BACKLOG)
            with run.measure_recovery(daemon):
                (daemon.state / FAULT_FILE).write_text(kernel, "utf-8")
            _check_incidents(run, daemon, at_least=number + 1)
        daemon.wait_for_all_jobs()
        daemon.stop()


def exhaust_memory(run: Run) -> None:
    """Take all memory of the GPU, so that a new worker cannot load; later, give it back."""
    files = create_recordings(run)
    with run.create_daemon(program=PROGRAM, settings=SETTINGS) as daemon:
        drop_files(daemon, files, {}, backlog=BACKLOG)
        daemon.start()
        for _ in run.count_rounds(1):
            wait_for_committed_chunk(daemon)
            drop_files(daemon, files, {}, backlog=BACKLOG)
            filler = start_memory_filler()
            try:
                daemon.wait_until(daemon.kill_workers, "a worker")
                daemon.wait_until(
                    lambda: daemon.query_ledger(
                        "SELECT 1 FROM incidents WHERE error LIKE '%out of memory%'"
                    ),
                    "an incident",
                )
            finally:
                filler.kill()
                filler.wait()
        daemon.wait_for_all_jobs()
        daemon.stop()


def _check_incidents(run: Run, daemon: DaemonUnderTest, *, at_least: int) -> None:
    [[count]] = daemon.query_ledger("SELECT count(*) FROM incidents")
    if count < at_least:
        run.report_violation(f"{count} incidents instead of {at_least}")


def _build_scenario(kernel: str) -> Scenario:
    execute: Callable[[Run], None] = partial(launch_faulty_kernel, kernel=kernel)
    fault = f"CUDA fault in the worker's process: {kernel.replace('_', ' ')}"
    return Scenario(f"gpu-{kernel}", fault, execute, is_possible=has_gpu)


SCENARIOS = (
    *map(_build_scenario, KERNELS),
    Scenario("gpu-memory", "no memory left on the GPU", exhaust_memory, is_possible=has_gpu),
)
