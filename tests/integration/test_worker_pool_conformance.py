"""The contract of every worker pool, tested on each pool in `FACTORIES` with the scripted engine."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Hello,
    LanguageFound,
    Loaded,
    Opened,
    Report,
    SourceRef,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.transcript import Chunk
from speakeasyd.domain.worker_pool import (
    PoolEvent,
    RoomAvailable,
    WorkerLost,
    WorkerPool,
    WorkerReport,
)
from speakeasyd.errors import ErrorCode
from speakeasyd.loop import MainLoop
from speakeasyd.testing import PIECE, FaultScript, InjectedFault, build_scripted_chunks
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.pools import FACTORIES, RAY_ADDRESS, PoolSetup
from tests.ray_cluster import ENVIRONMENT, MISSING, RayCluster, is_ray_installed

FOLDER = "talks"  # the name of the folder of sources
MODEL = "auto"
LONG_S = 3600.0  # seconds; longer than any permitted wait
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@dataclass
class RunningPool:
    """A pool and all its events."""

    pool: WorkerPool
    sources: Path
    events: list[PoolEvent] = field(default_factory=list)

    def list_reports(self, kind: type[Report] | None = None) -> list[Report]:
        reports = [event.report for event in self.events if isinstance(event, WorkerReport)]
        return [report for report in reports if kind is None or isinstance(report, kind)]

    def list_reports_of(self, job_id: int) -> list[Report]:
        return [
            report for report in self.list_reports() if getattr(report, "job_id", None) == job_id
        ]

    def list_lost_tasks(self) -> list[WorkerLost]:
        return [event for event in self.events if isinstance(event, WorkerLost)]

    def list_chunks(self, job_id: int) -> list[Chunk]:
        return [one.chunk for one in self.list_reports_of(job_id) if isinstance(one, ChunkDone)]

    def has_ended(self, *job_ids: int) -> Callable[[], bool]:
        def ended() -> bool:
            done = self.list_reports(TaskDone) + self.list_reports(TaskFailed)
            return {one.job_id for one in done} >= set(job_ids)

        return ended

    def write_source(self, job_id: int, chunks: int = 3) -> bytes:
        data = bytes([job_id]) * (PIECE * chunks)
        (self.sources / f"{job_id}.audio").write_bytes(data)
        return data

    async def has_room(self) -> None:
        await wait_until(lambda: self.pool.capacity(MODEL), "room for a task")


def build_task(job_id: int, claim: str = "claim", *, skip: frozenset[int] = frozenset()) -> Task:
    source = SourceRef(FOLDER, b"%d.audio" % job_id)
    return Task(JobId(job_id), Token(claim), source, Options(), "en", skip=skip)


@asynccontextmanager
async def run_pool(
    build: Callable[[PoolSetup], WorkerPool],
    tmp_path: Path,
    *faults: InjectedFault,
    device: str = "cpu",
    chunk_s: float = 0.0,
    batch: int = 3,
    probe: Callable[[], str] = lambda: "",
) -> AsyncIterator[RunningPool]:
    state, sources = tmp_path / "state", tmp_path / "sources"
    state.mkdir()
    sources.mkdir()
    FaultScript(faults, chunk_s=chunk_s).write_to(state)

    async def find_fault(_device: str) -> str:
        return probe()

    pool = build(
        PoolSetup(
            state=state,
            folders={FOLDER: sources},
            main_loop=MainLoop(asyncio.get_running_loop()),
            devices=(device,),
            batch=batch,
            probe=find_fault,
        )
    )
    running = RunningPool(pool, sources)
    await pool.start(running.events.append)
    try:
        yield running
    finally:
        await pool.stop(0.0)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """Start a Ray cluster with a node for each kind of worker. Returns its address."""
    if not is_ray_installed():
        pytest.skip(MISSING)
    with closing(RayCluster()) as cluster:
        cluster.add_node("both", cpus=3, gpus=1)
        yield cluster.address


@pytest.fixture(params=FACTORIES)
def build(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[PoolSetup], WorkerPool]:
    if request.param == "ray":
        monkeypatch.setenv(RAY_ADDRESS, request.getfixturevalue("ray_cluster"))
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
    return FACTORIES[request.param]


BuildPool = Callable[[PoolSetup], WorkerPool]


async def test_a_submitted_task_ends_with_the_text_of_its_source(
    build: BuildPool, tmp_path: Path
) -> None:
    async with run_pool(build, tmp_path) as running:
        data = running.write_source(1)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(running.has_ended(1), "the end of the task")
        assert running.list_chunks(1) == build_scripted_chunks(data)
        assert not running.list_lost_tasks()


async def test_the_reports_of_a_task_are_in_order(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path) as running:
        for job_id in (1, 2, 3):
            running.write_source(job_id)
        await running.has_room()
        for job_id in (1, 2, 3):
            running.pool.submit_task(build_task(job_id))
        await wait_until(running.has_ended(1, 2, 3), "the end of the tasks")
        kinds = [type(report) for report in running.list_reports()]
        assert kinds.index(Hello) < kinds.index(Loaded) < kinds.index(Opened)
        for job_id in (1, 2, 3):
            reports = running.list_reports_of(job_id)
            assert [type(report) for report in reports[:2]] == [Opened, LanguageFound]
            assert isinstance(reports[-1], TaskDone)
            steps = [
                (type(one), one.chunk.index if isinstance(one, ChunkDone) else one.index)
                for one in reports
                if isinstance(one, ChunkStarted | ChunkDone)
            ]
            assert steps == [(kind, n) for n in range(3) for kind in (ChunkStarted, ChunkDone)]


async def test_a_missing_source_fails_its_task_only(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path) as running:
        running.write_source(2)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        running.pool.submit_task(build_task(2))
        await wait_until(running.has_ended(1, 2), "the end of the tasks")
        [failed] = running.list_reports(TaskFailed)
        assert (failed.job_id, failed.code) == (1, ErrorCode.SOURCE_MISSING)
        assert len(running.list_chunks(2)) == 3


async def test_a_dropped_task_is_not_finished(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, chunk_s=0.02, batch=2) as running:
        running.write_source(1, chunks=1000)
        running.write_source(2)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(lambda: running.list_chunks(1), "the first chunk")
        running.pool.drop_job(JobId(1))
        assert running.pool.neglects(JobId(1)) is None
        running.pool.submit_task(build_task(2))
        await wait_until(running.has_ended(2), "the end of the other")
        assert not isinstance(running.list_reports_of(1)[-1], TaskDone | TaskFailed)
        assert sum(status.tasks for status in running.pool.status()) == 0


async def test_an_unknown_job_is_ignored(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path) as running:
        running.write_source(1)
        running.pool.drop_job(JobId(7))
        assert running.pool.neglects(JobId(7)) is None
        await running.has_room()
        running.pool.drop_job(JobId(7))
        running.pool.submit_task(build_task(1))
        await wait_until(running.has_ended(1), "the end of the task")


async def test_a_worker_that_dies_is_replaced_and_the_chunk_repeated(
    build: BuildPool, tmp_path: Path
) -> None:
    died = InjectedFault("exit", file="1.audio", chunk=1, status=9)
    async with run_pool(build, tmp_path, died) as running:
        data = running.write_source(1)
        await running.has_room()
        running.pool.submit_task(build_task(1, "first"))
        await wait_until(running.list_lost_tasks, "the lost task")
        [lost] = running.list_lost_tasks()
        [task] = lost.tasks
        assert (task.job_id, task.token, lost.exit_status) == (1, "first", 9)
        assert [chunk.index for chunk in task.suspects] == [1]
        assert running.pool.neglects(JobId(1)) is None, "the daemon decides what becomes of it"
        await running.has_room()
        running.pool.submit_task(build_task(1, "second", skip=frozenset({0})))
        await wait_until(running.has_ended(1), "the end of the task")
        assert running.list_chunks(1) == build_scripted_chunks(data)
        assert len({one.pid for one in running.list_reports(Hello)}) == 2


async def test_a_device_that_fails_is_paused_and_resumed(build: BuildPool, tmp_path: Path) -> None:
    error = "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"
    broken = InjectedFault("fault", at="load", phase="load", text=error)
    repaired = asyncio.Event()
    async with run_pool(
        build, tmp_path, broken, device="cuda:0", probe=lambda: "" if repaired.is_set() else error
    ) as running:
        running.write_source(1)
        await running.has_room()
        assert running.pool.blocked_reason is None
        running.pool.submit_task(build_task(1, "first"))
        await wait_until(lambda: running.pool.blocked_reason, "the pause")
        assert running.pool.capacity(MODEL) == 0
        assert [task.token for lost in running.list_lost_tasks() for task in lost.tasks] == [
            "first"
        ]
        before = len(running.events)
        repaired.set()
        await running.has_room()
        assert running.pool.blocked_reason is None
        assert running.events[before:], "an event tells of it"
        running.pool.submit_task(build_task(1, "second"))
        await wait_until(running.has_ended(1), "the end of the task")


async def test_a_fault_that_needs_a_person_is_reported(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, InjectedFault("abort", at="load", times=0)) as running:
        running.write_source(1)
        while not running.pool.fatal_diagnosis:
            before = len(running.list_lost_tasks())
            await wait_until(
                lambda: running.pool.capacity(MODEL) or running.pool.fatal_diagnosis, "an attempt"
            )
            if running.pool.capacity(MODEL):
                running.pool.submit_task(build_task(1))
                await wait_until(
                    lambda before=before: len(running.list_lost_tasks()) > before,
                    "the end of the worker",
                )
        assert running.pool.blocked_reason


async def test_capacity_falls_with_each_task_and_rises_when_it_ends(
    build: BuildPool, tmp_path: Path
) -> None:
    async with run_pool(build, tmp_path, chunk_s=0.02) as running:
        await running.has_room()
        room = running.pool.capacity(MODEL)
        running.write_source(1, chunks=1000)
        running.write_source(2)
        running.pool.submit_task(build_task(1))
        assert running.pool.capacity(MODEL) == room - 1
        running.pool.submit_task(build_task(2))
        assert running.pool.capacity(MODEL) == room - 2
        assert running.pool.capacity("another") == 0, "one model at a time on a device"
        before = len(running.events)
        await wait_until(running.has_ended(2), "the end of a task")
        assert running.pool.capacity(MODEL) == room - 1
        assert RoomAvailable() in running.events[before:]
        running.pool.drop_job(JobId(1))
        assert running.pool.capacity(MODEL) == room


async def test_an_urgent_task_starts_beside_long_ones(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, chunk_s=0.5) as running:
        await running.has_room()
        long = range(1, running.pool.capacity(MODEL) + 1)
        for job_id in long:
            running.write_source(job_id, chunks=1000)
            running.pool.submit_task(build_task(job_id))
        assert running.pool.capacity(MODEL) == 0
        assert running.pool.capacity(MODEL, urgent=True)
        running.write_source(99, chunks=1)
        running.pool.submit_task(build_task(99), urgent=True)
        await wait_until(
            lambda: any(report.job_id == 99 for report in running.list_reports(Opened)),
            "a worker to open the source of the urgent task",
        )
        assert not any(running.has_ended(job_id)() for job_id in long)


async def test_tasks_beyond_the_capacity_wait(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path) as running:
        await running.has_room()
        many = range(1, running.pool.capacity(MODEL) + 4)
        for job_id in many:
            running.write_source(job_id, chunks=1)
            running.pool.submit_task(build_task(job_id))
        assert running.pool.capacity(MODEL) == 0
        assert running.pool.neglects(JobId(many[-1])) is False, "it waits"
        await wait_until(running.has_ended(*many), "the end of the tasks")


async def test_an_urgent_task_has_room_beside_full_slots(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, batch=1) as running:
        await running.has_room()
        many = range(1, running.pool.capacity(MODEL) + 1)
        for job_id in many:
            running.write_source(job_id)
            running.pool.submit_task(build_task(job_id))
        assert running.pool.capacity(MODEL) == 0
        room = running.pool.capacity(MODEL, urgent=True)
        assert room > 0
        urgent = many[-1] + 1
        running.write_source(urgent)
        running.pool.submit_task(build_task(urgent), urgent=True)
        assert running.pool.capacity(MODEL, urgent=True) == room - 1
        await wait_until(running.has_ended(*many, urgent), "the end of the tasks")


async def test_a_task_alone_has_its_worker_to_itself(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, chunk_s=0.01) as running:
        for job_id in (1, 2, 3):
            running.write_source(job_id)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        running.pool.submit_task(build_task(2), alone=True)
        running.pool.submit_task(build_task(3))
        await wait_until(running.has_ended(1, 2, 3), "the end of the tasks")
        reports = running.list_reports()
        span = [n for n, one in enumerate(reports) if getattr(one, "job_id", None) == 2]
        others = {getattr(one, "job_id", 2) for one in reports[span[0] : span[-1]]}
        assert others == {2}


async def test_a_task_for_the_cpu_is_not_done_by_a_gpu(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, device="cuda:0") as running:
        data = running.write_source(1)
        await running.has_room()
        running.pool.submit_task(build_task(1), on_cpu=True)
        await wait_until(running.has_ended(1), "the end of the task")
        assert [one.device for one in running.list_reports(Loaded)] == ["cpu"]
        assert running.list_chunks(1) == build_scripted_chunks(data)


async def test_an_idle_model_is_freed_and_loaded_again(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path) as running:
        for job_id in (1, 2):
            running.write_source(job_id)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(running.has_ended(1), "the end of the task")
        running.pool.unload_idle_models()
        await wait_until(lambda: not running.pool.status()[0].model, "the end of the model")
        running.pool.submit_task(build_task(2))
        await wait_until(running.has_ended(2), "the end of the other")
        assert len(running.list_reports(Loaded)) == 2


async def test_a_stop_finishes_the_chunks_in_flight(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, chunk_s=0.05) as running:
        running.write_source(1, chunks=1000)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(lambda: running.list_chunks(1), "the first chunk")
        await running.pool.stop(PATIENCE_S)
        started = [one.index for one in running.list_reports(ChunkStarted)]
        assert [chunk.index for chunk in running.list_chunks(1)] == started
        assert len(started) < 1000
        assert not running.list_lost_tasks()
        assert running.pool.capacity(MODEL) == 0
        before = len(running.events)
        await running.pool.stop(PATIENCE_S)
        assert len(running.events) == before


async def test_a_stop_respects_its_time_limit(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, InjectedFault("hang", chunk=1)) as running:
        running.write_source(1)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(lambda: len(running.list_reports(ChunkStarted)) == 2, "the chunk")
        await asyncio.wait_for(running.pool.stop(0.1), PATIENCE_S)
        assert not running.list_lost_tasks()


async def test_a_kill_ends_a_stop(build: BuildPool, tmp_path: Path) -> None:
    async with run_pool(build, tmp_path, chunk_s=LONG_S) as running:
        running.write_source(1)
        await running.has_room()
        running.pool.submit_task(build_task(1))
        await wait_until(lambda: running.list_reports(ChunkStarted), "the chunk")
        stopping = asyncio.create_task(running.pool.stop(LONG_S))
        await asyncio.sleep(0)
        running.pool.kill()
        await asyncio.wait_for(stopping, PATIENCE_S)


async def test_late_reports_of_an_earlier_claim_end_no_other(
    build: BuildPool, tmp_path: Path
) -> None:
    """The task is dropped while its worker processes it, and submitted again with a new token."""
    async with run_pool(build, tmp_path, chunk_s=0.01) as running:
        data = running.write_source(1, chunks=20)
        await running.has_room()
        room = running.pool.capacity(MODEL)
        for claim in ("first", "second", "third"):
            running.pool.drop_job(JobId(1))
            running.pool.submit_task(build_task(1, claim))
        assert running.pool.capacity(MODEL) == room - 1
        await wait_until(
            lambda: any(one.token == claim for one in running.list_reports(TaskDone)), "the end"
        )
        current = [one for one in running.list_reports_of(1) if one.token == claim]
        done = [one.chunk for one in current if isinstance(one, ChunkDone)]
        assert done == build_scripted_chunks(data)
        assert sum(isinstance(one, TaskDone) for one in current) == 1
        assert running.pool.capacity(MODEL) == room


async def test_events_and_tasks_can_be_pickled_and_have_no_paths(
    build: BuildPool, tmp_path: Path
) -> None:
    """They are equal after pickling and contain no path of a machine."""
    died = InjectedFault("fault", file="1.audio", chunk=1, text="RuntimeError: no")
    async with run_pool(build, tmp_path, died) as running:
        running.write_source(1)
        await running.has_room()
        task = build_task(1)
        running.pool.submit_task(task)
        await wait_until(running.list_lost_tasks, "the lost task")
        await running.has_room()
        running.pool.submit_task(task)
        await wait_until(running.has_ended(1), "the end of the task")
        for value in (task, *running.events, *running.pool.status()):
            carried = pickle.dumps(value)
            assert pickle.loads(carried) == value  # noqa: S301 - our own bytes
            assert str(tmp_path).encode() not in carried
