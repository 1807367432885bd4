"""Benchmarks of the Ray pool. Usage: python -m benchmarks.cluster [overhead] [throughput]

overhead    the same batch with the bundled model on N local workers and on N actors, in
            alternating rounds: medians, and how much longer Ray takes
throughput  how many chunk results a second one daemon commits, from 100 simulated actors at
            rising rates, and the processor time that each part takes
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from benchmarks.cluster_simulation import ACTORS, CHUNKS, RATE
from benchmarks.corpus import SAMPLES
from benchmarks.machine import describe_machine
from benchmarks.scale import Daemon
from speakeasyd.clock import SystemClock
from speakeasyd.cluster.ray_pool import RayPool
from speakeasyd.config import ClusterSettings, RecoverySettings, WorkerSettings
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import Loaded, SourceRef, Task, TaskDone, WorkerSpec
from speakeasyd.domain.worker_pool import PoolEvent, WorkerPool, WorkerReport
from speakeasyd.loop import MainLoop
from speakeasyd.workers.local_pool import LocalPool
from tests.ray_cluster import ENVIRONMENT, RayCluster

SIMULATED = 100
RATES = (2, 5, 10, 15, 18, 20, 25, 30)  # chunks a second of each actor
FILE_CHUNKS = 500
MEASURED_S = 20.0
SETTLE_S = 10.0


def overhead(workers: int, rounds: int, copies: int) -> None:
    os.environ |= ENVIRONMENT
    times: dict[str, list[float]] = {"local": [], "ray": []}
    with closing(RayCluster()) as cluster:
        cluster.add_node("node", cpus=workers)
        for _ in range(rounds):
            for kind in times:
                took = asyncio.run(measure_batch(kind, cluster.address, workers, copies))
                times[kind].append(took)
                print(f"  {kind}: {took:.1f} s", file=sys.stderr, flush=True)
    local, ray = statistics.median(times["local"]), statistics.median(times["ray"])
    print(
        f"overhead: {copies * len(list_samples())} files, {workers} workers, {rounds} rounds: "
        f"local {local:.1f} s, Ray {ray:.1f} s, {ray / local - 1:+.1%}"
    )


def list_samples() -> list[Path]:
    return sorted(SAMPLES.glob("*.flac"))


async def measure_batch(kind: str, address: str, workers: int, copies: int) -> float:
    """Return the seconds from the first submitted task to the end of the last one.

    Every worker has loaded its model before.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for sample in list_samples():
            shutil.copyfile(sample, root / sample.name)
        pool = create_pool(kind, root, address, workers)
        events: list[PoolEvent] = []
        await pool.start(events.append)
        try:
            names = [sample.name for sample in list_samples()]
            first = 0
            while count_loaded(events) < workers:
                await compute(pool, events, names * workers, first=first)
                first += len(names) * workers
            began = time.monotonic()
            await compute(pool, events, names * copies, first=first)
            return time.monotonic() - began
        finally:
            await pool.stop(0.0)


def count_loaded(events: Sequence[PoolEvent]) -> int:
    """Return how many workers have loaded their model."""
    return len(
        {
            event.worker
            for event in events
            if isinstance(event, WorkerReport) and isinstance(event.report, Loaded)
        }
    )


def create_pool(kind: str, root: Path, address: str, workers: int) -> WorkerPool:
    common = {
        "recovery": RecoverySettings(),
        "state_dir": root / "state",
        "folders": {"inbox": root},
        "main_loop": MainLoop(asyncio.get_running_loop()),
        "clock": SystemClock(),
    }
    settings = WorkerSettings(device="cpu", replicas=1)
    if kind == "ray":
        cluster = ClusterSettings(
            address=address, resources={"CPU": 1.0}, state=str(root / "state")
        )
        return RayPool(settings=settings, cluster=cluster, **common)  # type: ignore[arg-type]
    spec = WorkerSpec("cpu", "auto", 1, 0, str(root / "state"))
    return NamedLocalPool(settings=settings, specs=(spec,) * workers, **common)  # type: ignore[arg-type]


class NamedLocalPool(LocalPool):
    """A local pool with several workers on the CPU, each with a name of its own."""

    def _create_supervisor(self, name, spec, *, probe=None):  # type: ignore[no-untyped-def]
        name = f"{name}-{len(self._workers_created)}"
        self._workers_created.append(name)
        return super()._create_supervisor(name, spec, probe=probe)

    @property
    def _workers_created(self) -> list[str]:
        return vars(self).setdefault("_names", [])  # type: ignore[no-any-return]


async def compute(
    pool: WorkerPool, events: list[PoolEvent], names: Sequence[str], *, first: int
) -> None:
    """Submit a task for each file as there is room, and wait for all."""
    waiting = list(enumerate(names, first))
    wanted = {number for number, _ in waiting}
    ended: set[int] = set()
    read = len(events)
    while not ended >= wanted:
        while waiting and pool.capacity("bundled"):
            number, name = waiting.pop(0)
            source = SourceRef("inbox", name.encode())
            pool.submit_task(
                Task(JobId(number), Token("claim"), source, Options(model="bundled"), "en")
            )
        for event in events[read:]:
            if isinstance(event, WorkerReport) and isinstance(event.report, TaskDone):
                ended.add(event.report.job_id)
        read = len(events)
        await asyncio.sleep(0.01)


def throughput() -> None:
    print(f"throughput, {SIMULATED} actors: {describe_machine('cpu')}")
    print("| offered a second | committed a second | daemon, of a core | driver, of a core |")
    print("|---|---|---|---|")
    for rate in RATES:
        with tempfile.TemporaryDirectory() as scratch:
            committed, daemon_share, driver_share = measure_rate(Path(scratch), rate)
        print(
            f"| {rate * SIMULATED} | {committed:.0f} | {daemon_share:.0%} | {driver_share:.0%} |",
            flush=True,
        )


def measure_rate(root: Path, rate: int) -> tuple[float, float, float]:
    """Return the committed chunks a second, and the shares of a core of daemon and driver."""
    daemon = Daemon(root)
    wanted = int(rate * SIMULATED * (MEASURED_S + 2 * SETTLE_S) / FILE_CHUNKS) + 2 * SIMULATED
    for number in range(wanted):
        (daemon.inbox / f"{number}.wav").write_bytes(b"RIFF%d" % number)
    environment = {
        ACTORS: str(SIMULATED),
        RATE: str(rate),
        CHUNKS: str(FILE_CHUNKS),
        "SPEAKEASYD_WORKERS__POOL": "ray",
        "SPEAKEASYD_WORKERS__REPLICAS": "1",
        "SPEAKEASYD_WORKERS__BATCH_SIZE": "1",
        "SPEAKEASYD_WATCH__DUPLICATES": "transcribe",
        "SPEAKEASYD_SERVER__ENABLED": "false",
    }
    with run_simulated(daemon, environment) as process:
        daemon.wait_for("SELECT count(*) FROM chunks", 1)
        time.sleep(SETTLE_S)
        driver = max(process.children(), key=lambda child: child.cpu_times().user)
        before, began = daemon.count("SELECT count(*) FROM chunks"), time.monotonic()
        busy = [sum(one.cpu_times()[:2]) for one in (process, driver)]
        time.sleep(MEASURED_S)
        after, took = daemon.count("SELECT count(*) FROM chunks"), time.monotonic() - began
        shares = [
            (sum(one.cpu_times()[:2]) - was) / took
            for one, was in zip((process, driver), busy, strict=True)
        ]
    return (after - before) / took, shares[0], shares[1]


@contextmanager
def run_simulated(daemon: Daemon, environment: dict[str, str]) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "benchmarks.cluster", "daemon", *daemon.command[3:]]
    with subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def run_daemon_on_simulation(arguments: Sequence[str]) -> int:
    from speakeasyd import cli
    from speakeasyd.cluster import client

    client.DRIVER = "benchmarks.cluster_simulation:serve_simulation"
    return cli.main(arguments)


def main() -> int:
    if sys.argv[1:2] == ["daemon"]:
        return run_daemon_on_simulation(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["overhead", "throughput"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=10, help="of each sample in the batch")
    asked = parser.parse_args()
    if "overhead" in asked.parts:
        overhead(asked.workers, asked.rounds, asked.copies)
    if "throughput" in asked.parts:
        throughput()
    return 0


if __name__ == "__main__":
    sys.exit(main())
