"""The pool on a Ray cluster: nodes that join and leave, its driver, its head, the real engine."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Self

import psutil
import pytest

from speakeasyd.cli.cluster_checks import survey_cluster
from speakeasyd.clock import SystemClock
from speakeasyd.cluster.ray_pool import RayPool
from speakeasyd.config import ClusterSettings, RecoverySettings, WorkerSettings
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.fault import MACHINE_LOST
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkDone, SourceRef, Task, TaskDone
from speakeasyd.domain.worker_pool import PoolEvent, WorkerLost, WorkerReport
from speakeasyd.loop import MainLoop
from speakeasyd.testing import PIECE, SCRIPTED, FaultScript, build_scripted_chunks
from speakeasyd.workers.child import ENGINE
from tests.conftest import PATIENCE_S, wait_until
from tests.ray_cluster import ENVIRONMENT, MISSING, RayCluster, is_ray_installed

FOLDER = "talks"
MODEL = "auto"
pytestmark = [
    pytest.mark.timeout(4 * PATIENCE_S),
    pytest.mark.skipif(not is_ray_installed(), reason=MISSING),
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with closing(RayCluster()) as cluster:
        cluster.add_node("first", cpus=1)
        yield cluster


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class PoolUnderTest:
    """A pool on the cluster, its events, and tasks that are submitted again when they are lost."""

    def __init__(self, root: Path, address: str, *, target: str = SCRIPTED, model: str = MODEL):
        self.model = model
        self.sources = root / "sources"
        self.sources.mkdir()
        self.events: list[PoolEvent] = []
        self.texts: dict[int, dict[int, object]] = {}  # chunks by job and index
        self.ended: set[int] = set()
        state = root / "state"
        state.mkdir()
        FaultScript(chunk_s=0.05).write_to(state)
        self.pool = RayPool(
            settings=WorkerSettings(device="cpu", replicas=1),
            cluster=ClusterSettings(address=address, resources={"CPU": 1.0}, state=str(state)),
            recovery=RecoverySettings(),
            state_dir=state,
            folders={FOLDER: self.sources},
            main_loop=MainLoop(asyncio.get_running_loop()),
            clock=SystemClock(),
            target=target,
        )

    async def __aenter__(self) -> Self:
        await self.pool.start(self._on_event)
        return self

    async def __aexit__(self, *_failure: object) -> None:
        await self.pool.stop(0.0)

    def _on_event(self, event: PoolEvent) -> None:
        self.events.append(event)
        match event:
            case WorkerReport(report=ChunkDone(job_id=job_id, chunk=chunk)):
                self.texts.setdefault(job_id, {})[chunk.index] = chunk
            case WorkerReport(report=TaskDone(job_id=job_id)):
                self.ended.add(job_id)
            case WorkerLost(tasks=tasks):
                for task in tasks:
                    self.submit(task.job_id, f"after {len(self.events)}")

    def submit(self, job_id: int, claim: str = "claim", name: str = "") -> None:
        source = SourceRef(FOLDER, (name or f"{job_id}.audio").encode())
        done = frozenset(self.texts.get(job_id, ()))
        options = Options(model=self.model)
        self.pool.submit_task(Task(JobId(job_id), Token(claim), source, options, "en", skip=done))

    def write_source(self, job_id: int, chunks: int) -> bytes:
        data = bytes([job_id]) * (PIECE * chunks)
        (self.sources / f"{job_id}.audio").write_bytes(data)
        return data

    def list_lost(self) -> list[WorkerLost]:
        return [event for event in self.events if isinstance(event, WorkerLost)]

    def has_workers(self, count: int) -> Callable[[], bool]:
        def has() -> bool:
            return sum(bool(worker.pid) for worker in self.pool.status()) == count

        return has

    async def wait_for_all(self, data: dict[int, bytes]) -> None:
        await wait_until(lambda: self.ended >= data.keys(), "the end of the tasks")
        for job_id, source in data.items():
            chunks = [self.texts[job_id][index] for index in sorted(self.texts[job_id])]
            assert chunks == build_scripted_chunks(source)


async def test_the_real_engine_transcribes_on_the_cluster(
    cluster: RayCluster, tmp_path: Path
) -> None:
    async with PoolUnderTest(tmp_path, cluster.address, target=ENGINE, model="bundled") as running:
        sample = Path(str(files("speakeasyd") / "data" / "samples" / "voice_memo.flac"))
        (running.sources / "memo.flac").write_bytes(sample.read_bytes())
        await wait_until(lambda: running.pool.capacity("bundled"), "a worker")
        running.submit(1, name="memo.flac")
        await wait_until(lambda: 1 in running.ended, "the end of the task")
        [worker] = running.pool.status()
        assert worker.name.endswith("-cpu-0")
        text = "".join(
            segment.text
            for index in sorted(running.texts[1])
            for segment in running.texts[1][index].segments  # type: ignore[attr-defined]
        )
        assert len(text.split()) > 10
        assert not running.list_lost()
        assert not list((tmp_path / "state" / "received").rglob("*.flac")), "it is removed"


async def test_nodes_join_and_leave_during_work(cluster: RayCluster, tmp_path: Path) -> None:
    async with PoolUnderTest(tmp_path, cluster.address) as running:
        data = {job_id: running.write_source(job_id, 200) for job_id in range(1, 7)}
        await wait_until(running.has_workers(1), "the first worker")
        for job_id in data:
            running.submit(job_id)
        await asyncio.to_thread(cluster.add_node, "second", cpus=1)
        await wait_until(running.has_workers(2), "the worker of the second node")
        for job_id in range(11, 15):
            data[job_id] = running.write_source(job_id, 200)
            running.submit(job_id)
        await asyncio.to_thread(cluster.kill_node, "second")
        await wait_until(running.list_lost, "the loss of the second node")
        await wait_until(
            lambda: any(lost.diagnosis == MACHINE_LOST for lost in running.list_lost()),
            "the slot to be given up",
        )
        await running.wait_for_all(data)
        assert running.has_workers(1)()


async def test_a_killed_worker_and_a_killed_actor_are_replaced(
    cluster: RayCluster, tmp_path: Path
) -> None:
    async with PoolUnderTest(tmp_path, cluster.address) as running:
        data = {1: running.write_source(1, 60)}
        await wait_until(running.has_workers(1), "the worker")
        running.submit(1)
        for count, find in enumerate((_find_worker, _find_actor), 1):
            before = len(running.texts.get(1, ()))
            await wait_until(
                lambda before=before: len(running.texts.get(1, ())) > before, "a chunk"
            )
            await wait_until(running.has_workers(1), "the worker")
            os.kill(find(running), signal.SIGKILL)
            await wait_until(
                lambda count=count: len(running.list_lost()) == count, "the lost worker"
            )
            assert running.list_lost()[-1].exit_status == -signal.SIGKILL
        await running.wait_for_all(data)


def _find_worker(running: PoolUnderTest) -> int:
    return next(worker.pid for worker in running.pool.status() if worker.pid)


def _find_actor(running: PoolUnderTest) -> int:
    return psutil.Process(_find_worker(running)).ppid()


async def test_the_driver_is_replaced_and_its_actors_end(
    cluster: RayCluster, tmp_path: Path
) -> None:
    async with PoolUnderTest(tmp_path, cluster.address) as running:
        data = {1: running.write_source(1, 60)}
        await wait_until(running.has_workers(1), "the worker")
        running.submit(1)
        await wait_until(lambda: running.texts.get(1), "a chunk")
        earlier = psutil.Process(_find_worker(running))
        [driver] = [
            child
            for child in psutil.Process().children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        driver.kill()
        await wait_until(lambda: running.pool.blocked_reason, "the reason for the pause")
        assert "connection to the Ray cluster was lost" in str(running.pool.blocked_reason)
        await running.wait_for_all(data)
        assert running.pool.blocked_reason is None
        await wait_until(lambda: not earlier.is_running(), "the end of the earlier worker")


async def test_a_head_that_is_not_there_blocks_the_queue_with_a_reason(tmp_path: Path) -> None:
    async with PoolUnderTest(tmp_path, "127.0.0.1:1") as running:
        await wait_until(
            lambda: "does not answer" in str(running.pool.blocked_reason), "the reason"
        )
        assert running.pool.capacity(MODEL) == 0


async def test_a_lost_head_is_found_again(tmp_path: Path) -> None:
    with closing(RayCluster()) as first:
        port = int(first.address.rpartition(":")[2])
        await asyncio.to_thread(first.add_node, "first", cpus=1)
        async with PoolUnderTest(tmp_path, first.address) as running:
            data = {1: running.write_source(1, 60)}
            await wait_until(running.has_workers(1), "the worker")
            running.submit(1)
            await wait_until(lambda: running.texts.get(1), "a chunk")
            await asyncio.to_thread(first.kill)
            await wait_until(lambda: running.pool.blocked_reason, "the reason for the pause")
            with closing(await asyncio.to_thread(RayCluster, port)) as second:
                await asyncio.to_thread(second.add_node, "again", cpus=1)
                await running.wait_for_all(data)
                await running.pool.stop(0.0)


def test_the_survey_names_the_machines_and_their_room(cluster: RayCluster) -> None:
    settings = combine_sources(None, flags={}, environ={}).settings
    wanted = ClusterSettings(address=cluster.address, resources={"CPU": 1.0})
    found = survey_cluster(settings.model_copy(update={"cluster": wanted}))
    assert not found["error"]
    assert {node["problem"] for node in found["nodes"]} == {""}
    assert found["room"] >= 1
