"""The assignment of waiting tasks, with a worker whose reports and memory the test determines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from speakeasyd.config import RecoverySettings, WorkerSettings
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    Hello,
    Loaded,
    Report,
    Request,
    SourceRef,
    Task,
    TaskDone,
    WorkerSpec,
)
from speakeasyd.domain.transcript import Chunk
from speakeasyd.domain.worker_pool import OnPoolEvent
from speakeasyd.testing import ManualClock
from speakeasyd.workers.link import KILLED, OnExit, OnReports, ProcessExit
from speakeasyd.workers.supervised_pool import SupervisedPool
from speakeasyd.workers.supervisor import MEMORY_CHECK_S
from tests.conftest import PATIENCE_S

TOKEN = Token("mine")
LOADED = Loaded("auto", "tiny", "cpu", "int8", 1.0)
GROWTH_MB = 100
SEGFAULT = -11


@dataclass
class Link:
    """A worker that does nothing by itself."""

    on_reports: OnReports
    on_exit: OnExit
    pid: int | None = None
    rss: int = 0
    requests: list[Request] = field(default_factory=list)
    exiting: asyncio.Task[None] | None = None

    def start(self) -> None:
        pass

    def send_request(self, request: Request) -> None:
        self.requests.append(request)

    def kill(self) -> None:
        self.exiting = asyncio.create_task(self.exit(KILLED))

    def read_resident_bytes(self) -> int:
        return self.rss

    async def report(self, *reports: Report) -> None:
        await self.on_reports(list(reports))

    async def exit(self, status: int) -> None:
        await self.on_exit(ProcessExit(status))

    def list_tasks(self) -> list[JobId]:
        return [request.job_id for request in self.requests if isinstance(request, Task)]


class Pool(SupervisedPool):
    """A pool with one device; `links`: its workers, the current one last."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(
            settings=WorkerSettings(idle_unload_s=0.0),
            recovery=RecoverySettings(recycle_growth_mb=GROWTH_MB),
            clock=clock,
            connect=self._connect,
            probe=self._probe,
            policy=RecoveryPolicy(restart_s=0.0, restart_min_s=0.0, probe_s=0.0, leave_s=0.0),
        )
        self._specs = (WorkerSpec("cpu", "auto", 1, 1, "state"),)
        self.links: list[Link] = []

    async def start(self, on_event: OnPoolEvent) -> None:
        self._start_supervision(on_event)
        self._workers = [self._create_supervisor("cpu", self._specs[0])]
        self._workers[0].start()

    async def read_gpu_available_mb(self) -> float | None:
        return None

    async def wait_for_worker(self, count: int) -> Link:
        """Return the worker with this number, from 1, once it was started."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.links) < count:
                await asyncio.sleep(0)
        return self.links[count - 1]

    def _connect(
        self, _name: str, _spec: WorkerSpec, *, on_reports: OnReports, on_exit: OnExit
    ) -> Link:
        self.links.append(Link(on_reports, on_exit))
        return self.links[-1]

    async def _probe(self, _device: str) -> str:
        return ""


@asynccontextmanager
async def run_pool(clock: ManualClock) -> AsyncIterator[Pool]:
    pool = Pool(clock)
    await pool.start(lambda _event: None)
    try:
        yield pool
    finally:
        await pool.stop(0.0)


def build_task(job_id: int) -> Task:
    return Task(JobId(job_id), TOKEN, SourceRef("in", b"%d" % job_id), Options(), None)


async def test_a_pool_is_quiet_while_nothing_is_expected_of_its_workers() -> None:
    async with run_pool(ManualClock()) as pool:
        [link] = pool.links
        assert not pool._is_quiet  # the worker starts
        await link.report(Hello(1), LOADED)
        assert pool._is_quiet
        pool.submit_task(build_task(1))
        assert not pool._is_quiet


async def test_a_task_waits_for_a_worker_that_is_ready() -> None:
    async with run_pool(ManualClock()) as pool:
        pool.submit_task(build_task(1))
        [link] = pool.links
        assert not link.list_tasks()
        await link.report(Hello(1))
        assert link.list_tasks() == [1]


async def test_a_worker_that_has_shrunk_takes_waiting_tasks() -> None:
    """Nothing but its memory has changed: no report and no task tells the pool."""
    clock = ManualClock()

    def set_memory(link: Link, megabytes: int) -> None:
        link.rss = megabytes * 1_000_000
        clock.advance(MEMORY_CHECK_S + 1)
        pool._tick_supervisors()

    async with run_pool(clock) as pool:
        [link] = pool.links
        await link.report(Hello(1), LOADED)
        pool.submit_task(build_task(1))
        await link.report(ChunkDone(JobId(1), TOKEN, Chunk(0, 0.0, 10.0)))
        set_memory(link, 500)
        set_memory(link, 500 + GROWTH_MB)
        await link.report(TaskDone(JobId(1), TOKEN, 10.0))
        pool.submit_task(build_task(2))
        assert link.list_tasks() == [1]
        set_memory(link, 500)
        assert link.list_tasks() == [1, 2]


async def test_a_half_open_device_takes_a_task_before_its_first_report() -> None:
    async with run_pool(ManualClock()) as pool:
        for count in range(1, 4):
            link = await pool.wait_for_worker(count)
            await link.exit(SEGFAULT)
        pool.submit_task(build_task(1))
        link = await pool.wait_for_worker(4)
        assert link.list_tasks() == [1]
