"""What every pool of workers must do. Runs over each pool in `FACTORIES`, with the scripted engine."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
from tests.conftest import PATIENCE_S, eventually
from tests.integration.pools import FACTORIES, PoolSetup

FOLDER = "talks"  # the name of the sources' folder
MODEL = "auto"
LONG_S = 3600.0  # seconds: nothing may wait for so long
pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@dataclass
class Bench:
    """A pool and all that it has told."""

    pool: WorkerPool
    sources: Path
    events: list[PoolEvent] = field(default_factory=list)

    def reports(self, kind: type[Report] | None = None) -> list[Report]:
        told = [event.report for event in self.events if isinstance(event, WorkerReport)]
        return [report for report in told if kind is None or isinstance(report, kind)]

    def about(self, job_id: int) -> list[Report]:
        return [report for report in self.reports() if getattr(report, "job_id", None) == job_id]

    def lost(self) -> list[WorkerLost]:
        return [event for event in self.events if isinstance(event, WorkerLost)]

    def chunks(self, job_id: int) -> list[Chunk]:
        return [one.chunk for one in self.about(job_id) if isinstance(one, ChunkDone)]

    def has_ended(self, *job_ids: int) -> Callable[[], bool]:
        def ended() -> bool:
            done = self.reports(TaskDone) + self.reports(TaskFailed)
            return {one.job_id for one in done} >= set(job_ids)

        return ended

    def write(self, job_id: int, chunks: int = 3) -> bytes:
        data = bytes([job_id]) * (PIECE * chunks)
        (self.sources / f"{job_id}.audio").write_bytes(data)
        return data

    async def has_room(self) -> None:
        await eventually(lambda: self.pool.capacity(MODEL), "room for a task")


def a_task(job_id: int, claim: str = "claim", *, skip: frozenset[int] = frozenset()) -> Task:
    source = SourceRef(FOLDER, b"%d.audio" % job_id)
    return Task(JobId(job_id), Token(claim), source, Options(), "en", skip=skip)


@asynccontextmanager
async def a_pool(
    build: Callable[[PoolSetup], WorkerPool],
    tmp_path: Path,
    *faults: InjectedFault,
    device: str = "cpu",
    chunk_s: float = 0.0,
    batch: int = 3,
    probe: Callable[[], str] = lambda: "",
) -> AsyncIterator[Bench]:
    state, sources = tmp_path / "state", tmp_path / "sources"
    state.mkdir()
    sources.mkdir()
    FaultScript(faults, chunk_s=chunk_s).write_to(state)

    async def probed(_device: str) -> str:
        return probe()

    pool = build(
        PoolSetup(
            state=state,
            folders={FOLDER: sources},
            main_loop=MainLoop(asyncio.get_running_loop()),
            devices=(device,),
            batch=batch,
            probe=probed,
        )
    )
    bench = Bench(pool, sources)
    await pool.start(bench.events.append)
    try:
        yield bench
    finally:
        await pool.stop(0.0)


@pytest.fixture(params=FACTORIES)
def build(request: pytest.FixtureRequest) -> Callable[[PoolSetup], WorkerPool]:
    return FACTORIES[request.param]


Build = Callable[[PoolSetup], WorkerPool]


async def test_a_submitted_task_ends_with_the_text_of_its_source(
    build: Build, tmp_path: Path
) -> None:
    async with a_pool(build, tmp_path) as bench:
        data = bench.write(1)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(bench.has_ended(1), "the end of the task")
        assert bench.chunks(1) == build_scripted_chunks(data)
        assert not bench.lost()


async def test_the_reports_of_a_task_are_in_order(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path) as bench:
        for job_id in (1, 2, 3):
            bench.write(job_id)
        await bench.has_room()
        for job_id in (1, 2, 3):
            bench.pool.submit_task(a_task(job_id))
        await eventually(bench.has_ended(1, 2, 3), "the end of the tasks")
        kinds = [type(report) for report in bench.reports()]
        assert kinds.index(Hello) < kinds.index(Loaded) < kinds.index(Opened)
        for job_id in (1, 2, 3):
            told = bench.about(job_id)
            assert [type(report) for report in told[:2]] == [Opened, LanguageFound]
            assert isinstance(told[-1], TaskDone)
            steps = [
                (type(one), one.chunk.index if isinstance(one, ChunkDone) else one.index)
                for one in told
                if isinstance(one, ChunkStarted | ChunkDone)
            ]
            assert steps == [(kind, n) for n in range(3) for kind in (ChunkStarted, ChunkDone)]


async def test_a_missing_source_fails_its_task_only(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path) as bench:
        bench.write(2)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        bench.pool.submit_task(a_task(2))
        await eventually(bench.has_ended(1, 2), "the end of the tasks")
        [failed] = bench.reports(TaskFailed)
        assert (failed.job_id, failed.code) == (1, ErrorCode.SOURCE_MISSING)
        assert len(bench.chunks(2)) == 3


async def test_a_dropped_task_is_not_finished(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, chunk_s=0.02, batch=2) as bench:
        bench.write(1, chunks=1000)
        bench.write(2)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(lambda: bench.chunks(1), "the first chunk")
        bench.pool.drop_job(JobId(1))
        assert bench.pool.neglects(JobId(1)) is None
        bench.pool.submit_task(a_task(2))
        await eventually(bench.has_ended(2), "the end of the other")
        assert not isinstance(bench.about(1)[-1], TaskDone | TaskFailed)
        assert sum(status.tasks for status in bench.pool.status()) == 0


async def test_an_unknown_job_is_ignored(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path) as bench:
        bench.write(1)
        bench.pool.drop_job(JobId(7))
        assert bench.pool.neglects(JobId(7)) is None
        await bench.has_room()
        bench.pool.drop_job(JobId(7))
        bench.pool.submit_task(a_task(1))
        await eventually(bench.has_ended(1), "the end of the task")


async def test_a_worker_that_dies_is_replaced_and_the_chunk_repeated(
    build: Build, tmp_path: Path
) -> None:
    died = InjectedFault("exit", file="1.audio", chunk=1, status=9)
    async with a_pool(build, tmp_path, died) as bench:
        data = bench.write(1)
        await bench.has_room()
        bench.pool.submit_task(a_task(1, "first"))
        await eventually(bench.lost, "the loss")
        [lost] = bench.lost()
        [task] = lost.tasks
        assert (task.job_id, task.token, lost.exit_status) == (1, "first", 9)
        assert [chunk.index for chunk in task.suspects] == [1]
        assert bench.pool.neglects(JobId(1)) is None, "the daemon decides what becomes of it"
        await bench.has_room()
        bench.pool.submit_task(a_task(1, "second", skip=frozenset({0})))
        await eventually(bench.has_ended(1), "the end of the task")
        assert bench.chunks(1) == build_scripted_chunks(data)
        assert len({one.pid for one in bench.reports(Hello)}) == 2


async def test_a_device_that_fails_is_paused_and_resumed(build: Build, tmp_path: Path) -> None:
    error = "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"
    broken = InjectedFault("fault", at="load", phase="load", text=error)
    mended = asyncio.Event()
    async with a_pool(
        build, tmp_path, broken, device="cuda:0", probe=lambda: "" if mended.is_set() else error
    ) as bench:
        bench.write(1)
        await bench.has_room()
        assert bench.pool.blocked_reason is None
        bench.pool.submit_task(a_task(1, "first"))
        await eventually(lambda: bench.pool.blocked_reason, "the pause")
        assert bench.pool.capacity(MODEL) == 0
        assert [task.token for lost in bench.lost() for task in lost.tasks] == ["first"]
        told = len(bench.events)
        mended.set()
        await bench.has_room()
        assert bench.pool.blocked_reason is None
        assert bench.events[told:], "an event tells of it"
        bench.pool.submit_task(a_task(1, "second"))
        await eventually(bench.has_ended(1), "the end of the task")


async def test_what_a_person_has_to_fix_is_told(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, InjectedFault("abort", at="load", times=0)) as bench:
        bench.write(1)
        while not bench.pool.fatal_diagnosis:
            told = len(bench.lost())
            await eventually(
                lambda: bench.pool.capacity(MODEL) or bench.pool.fatal_diagnosis, "a try"
            )
            if bench.pool.capacity(MODEL):
                bench.pool.submit_task(a_task(1))
                await eventually(lambda told=told: len(bench.lost()) > told, "its end")
        assert bench.pool.blocked_reason


async def test_capacity_falls_with_each_task_and_rises_when_it_ends(
    build: Build, tmp_path: Path
) -> None:
    async with a_pool(build, tmp_path, chunk_s=0.02) as bench:
        await bench.has_room()
        room = bench.pool.capacity(MODEL)
        bench.write(1, chunks=1000)
        bench.write(2)
        bench.pool.submit_task(a_task(1))
        assert bench.pool.capacity(MODEL) == room - 1
        bench.pool.submit_task(a_task(2))
        assert bench.pool.capacity(MODEL) == room - 2
        assert bench.pool.capacity("another") == 0, "one model at a time on a device"
        told = len(bench.events)
        await eventually(bench.has_ended(2), "the end of a task")
        assert bench.pool.capacity(MODEL) == room - 1
        assert RoomAvailable() in bench.events[told:]
        bench.pool.drop_job(JobId(1))
        assert bench.pool.capacity(MODEL) == room


async def test_an_urgent_task_starts_although_long_ones_have_all_slots(
    build: Build, tmp_path: Path
) -> None:
    async with a_pool(build, tmp_path, chunk_s=0.5) as bench:
        await bench.has_room()
        long = range(1, bench.pool.capacity(MODEL) + 1)
        for job_id in long:
            bench.write(job_id, chunks=1000)
            bench.pool.submit_task(a_task(job_id))
        assert bench.pool.capacity(MODEL) == 0
        assert bench.pool.capacity(MODEL, urgent=True)
        bench.write(99, chunks=1)
        bench.pool.submit_task(a_task(99), urgent=True)
        await eventually(
            lambda: any(report.job_id == 99 for report in bench.reports(Opened)),
            "a worker to open the source of the urgent task",
        )
        assert not any(bench.has_ended(job_id)() for job_id in long)


async def test_more_tasks_than_there_is_room_for_wait(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path) as bench:
        await bench.has_room()
        many = range(1, bench.pool.capacity(MODEL) + 4)
        for job_id in many:
            bench.write(job_id, chunks=1)
            bench.pool.submit_task(a_task(job_id))
        assert bench.pool.capacity(MODEL) == 0
        assert bench.pool.neglects(JobId(many[-1])) is False, "it waits"
        await eventually(bench.has_ended(*many), "the end of the tasks")


async def test_an_urgent_task_has_room_though_others_hold_all_slots(
    build: Build, tmp_path: Path
) -> None:
    async with a_pool(build, tmp_path, batch=1) as bench:
        await bench.has_room()
        many = range(1, bench.pool.capacity(MODEL) + 1)
        for job_id in many:
            bench.write(job_id)
            bench.pool.submit_task(a_task(job_id))
        assert bench.pool.capacity(MODEL) == 0
        room = bench.pool.capacity(MODEL, urgent=True)
        assert room > 0
        urgent = many[-1] + 1
        bench.write(urgent)
        bench.pool.submit_task(a_task(urgent), urgent=True)
        assert bench.pool.capacity(MODEL, urgent=True) == room - 1
        await eventually(bench.has_ended(*many, urgent), "the end of the tasks")


async def test_a_task_alone_has_its_worker_to_itself(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, chunk_s=0.01) as bench:
        for job_id in (1, 2, 3):
            bench.write(job_id)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        bench.pool.submit_task(a_task(2), alone=True)
        bench.pool.submit_task(a_task(3))
        await eventually(bench.has_ended(1, 2, 3), "the end of the tasks")
        told = bench.reports()
        span = [n for n, one in enumerate(told) if getattr(one, "job_id", None) == 2]
        others = {getattr(one, "job_id", 2) for one in told[span[0] : span[-1]]}
        assert others == {2}


async def test_a_task_for_the_cpu_is_not_done_by_a_gpu(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, device="cuda:0") as bench:
        data = bench.write(1)
        await bench.has_room()
        bench.pool.submit_task(a_task(1), on_cpu=True)
        await eventually(bench.has_ended(1), "the end of the task")
        assert [one.device for one in bench.reports(Loaded)] == ["cpu"]
        assert bench.chunks(1) == build_scripted_chunks(data)


async def test_an_idle_model_is_freed_and_loaded_again(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path) as bench:
        for job_id in (1, 2):
            bench.write(job_id)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(bench.has_ended(1), "the end of the task")
        bench.pool.unload_idle_models()
        await eventually(lambda: not bench.pool.status()[0].model, "the end of the model")
        bench.pool.submit_task(a_task(2))
        await eventually(bench.has_ended(2), "the end of the other")
        assert len(bench.reports(Loaded)) == 2


async def test_a_stop_finishes_the_chunks_in_flight(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, chunk_s=0.05) as bench:
        bench.write(1, chunks=1000)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(lambda: bench.chunks(1), "the first chunk")
        await bench.pool.stop(PATIENCE_S)
        started = [one.index for one in bench.reports(ChunkStarted)]
        assert [chunk.index for chunk in bench.chunks(1)] == started
        assert len(started) < 1000
        assert not bench.lost()
        assert bench.pool.capacity(MODEL) == 0
        told = len(bench.events)
        await bench.pool.stop(PATIENCE_S)
        assert len(bench.events) == told


async def test_a_stop_does_not_wait_longer_than_it_may(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, InjectedFault("hang", chunk=1)) as bench:
        bench.write(1)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(lambda: len(bench.reports(ChunkStarted)) == 2, "the chunk")
        await asyncio.wait_for(bench.pool.stop(0.1), PATIENCE_S)
        assert not bench.lost()


async def test_a_kill_ends_a_stop(build: Build, tmp_path: Path) -> None:
    async with a_pool(build, tmp_path, chunk_s=LONG_S) as bench:
        bench.write(1)
        await bench.has_room()
        bench.pool.submit_task(a_task(1))
        await eventually(lambda: bench.reports(ChunkStarted), "the chunk")
        stopping = asyncio.create_task(bench.pool.stop(LONG_S))
        await asyncio.sleep(0)
        bench.pool.kill()
        await asyncio.wait_for(stopping, PATIENCE_S)


async def test_late_reports_of_an_earlier_claim_end_no_other(build: Build, tmp_path: Path) -> None:
    """The task is dropped while its worker is at it, and submitted again with a new token."""
    async with a_pool(build, tmp_path, chunk_s=0.01) as bench:
        data = bench.write(1, chunks=20)
        await bench.has_room()
        room = bench.pool.capacity(MODEL)
        for claim in ("first", "second", "third"):
            bench.pool.drop_job(JobId(1))
            bench.pool.submit_task(a_task(1, claim))
        assert bench.pool.capacity(MODEL) == room - 1
        await eventually(
            lambda: any(one.token == claim for one in bench.reports(TaskDone)), "the end"
        )
        current = [one for one in bench.about(1) if one.token == claim]
        done = [one.chunk for one in current if isinstance(one, ChunkDone)]
        assert done == build_scripted_chunks(data)
        assert sum(isinstance(one, TaskDone) for one in current) == 1
        assert bench.pool.capacity(MODEL) == room


async def test_events_and_tasks_can_travel_and_name_no_place(build: Build, tmp_path: Path) -> None:
    """They are values: equal after pickling, and without a path of any machine."""
    died = InjectedFault("fault", file="1.audio", chunk=1, text="RuntimeError: no")
    async with a_pool(build, tmp_path, died) as bench:
        bench.write(1)
        await bench.has_room()
        task = a_task(1)
        bench.pool.submit_task(task)
        await eventually(bench.lost, "the loss")
        await bench.has_room()
        bench.pool.submit_task(task)
        await eventually(bench.has_ended(1), "the end of the task")
        for value in (task, *bench.events, *bench.pool.status()):
            carried = pickle.dumps(value)
            assert pickle.loads(carried) == value  # noqa: S301 - our own bytes
            assert str(tmp_path).encode() not in carried
