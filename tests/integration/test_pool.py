"""The pool with real worker processes, which run the scripted engine: every way to die, and nothing is lost."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.config import RecoverySettings, WorkerSettings
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    Report,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.recovery import Policy, Verdict, verdict
from speakeasyd.domain.transcript import Chunk
from speakeasyd.loop import MainLoop
from speakeasyd.testing import PIECE, SCRIPTED, Misdeed, Script, scripted_chunks, until
from speakeasyd.workers.pool import DeviceChange, Pool, WorkerLost

ILLEGAL = "RuntimeError: CUDA failed with error an illegal memory access was encountered"
POLICY = Policy(restart_s=0.05, restart_min_s=0.01, probe_s=0.05, person_probe_s=0.1, leave_s=0.5)
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")


@dataclass
class Work:
    """What a job still needs, as the ledger would know it."""

    path: Path
    done: dict[int, Chunk] = field(default_factory=dict)
    strikes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    crashes: int = 0
    ended: str = ""


class Dispatch:
    """Does what the dispatcher does, with a dict for a ledger: claims, commits, strikes, tries again."""

    def __init__(self, settings: RecoverySettings) -> None:
        self.settings = settings
        self.pool: Pool
        self.work: dict[JobId, Work] = {}
        self.pending: list[JobId] = []
        self.claims = 0
        self.tokens: dict[JobId, Token] = {}
        self.lost: list[WorkerLost] = []
        self.changes: list[DeviceChange] = []
        self.reports: list[Report] = []

    def add(self, *paths: Path) -> None:
        for path in paths:
            job_id = JobId(len(self.work) + 1)
            self.work[job_id] = Work(path)
            self.pending.append(job_id)
        self.room()

    def room(self) -> None:
        while self.pending and self.pool.capacity("auto") > 0:
            job_id = self.pending.pop(0)
            self.claims += 1
            self.tokens[job_id] = Token(f"claim-{self.claims}")
            self.begin(job_id, self.work[job_id])

    def begin(self, job_id: JobId, work: Work) -> None:
        struck = [index for index, strikes in work.strikes.items() if strikes and index not in work.done]
        if not struck:
            self.pool.submit(self.task(job_id, work), alone=work.crashes > 0)
            return
        match verdict(strikes=work.strikes[struck[0]], device=self.pool.device, settings=self.settings):
            case Verdict.TRY_ALONE:
                self.pool.submit(self.task(job_id, work, struck[0]), alone=True)
            case Verdict.TRY_ON_CPU:
                self.pool.submit(self.task(job_id, work, struck[0]), alone=True, on_cpu=True)
            case Verdict.MARK_GAP:
                work.done[struck[0]] = Chunk(struck[0], 0.0, 0.0, gap=True)
                self.pending.append(job_id)
            case Verdict.FAIL:
                work.ended = "poison"

    def task(self, job_id: JobId, work: Work, only: int | None = None) -> Task:
        return Task(
            job_id,
            self.tokens[job_id],
            str(work.path),
            Options(),
            "en",
            skip=frozenset(work.done),
            only=None if only is None else frozenset({only}),
        )

    def on_report(self, _worker: str, report: Report) -> None:
        self.reports.append(report)
        match report:
            case ChunkDone(job_id, token, chunk) if self.tokens[job_id] == token:
                assert chunk.index not in self.work[job_id].done
                self.work[job_id].done[chunk.index] = chunk
            case TaskDone(job_id, token) if self.tokens[job_id] == token:
                work = self.work[job_id]
                if len(work.done) == len(scripted_chunks(work.path.read_bytes())):
                    work.ended = "completed"
                else:
                    self.pending.append(job_id)
            case TaskFailed(job_id, token, code) if self.tokens[job_id] == token:
                self.work[job_id].ended = code
            case _:
                pass

    def on_lost(self, lost: WorkerLost) -> None:
        self.lost.append(lost)
        for task in lost.tasks:
            assert self.tokens[task.job_id] == task.token
            work = self.work[task.job_id]
            for chunk in task.suspects:
                work.strikes[chunk.index] += 1
            work.crashes += task.opened
            self.pending.append(task.job_id)

    async def finished(self, seconds: float = 20.0) -> None:
        await until(lambda: all(work.ended for work in self.work.values()), seconds=seconds, what="the end of the work")

    def kinds(self) -> list[FaultKind]:
        return [lost.kind for lost in self.lost]

    def check_texts(self) -> None:
        for work in self.work.values():
            if work.ended == "completed":
                expected = scripted_chunks(work.path.read_bytes())
                got = [work.done[index] for index in sorted(work.done)]
                assert got == [old if new.gap is False else new for old, new in zip(expected, got, strict=True)]


Running = Callable[..., "asyncio.Future[Dispatch]"]


@asynccontextmanager
async def running(
    tmp_path: Path,
    *misdeeds: Misdeed,
    device: str = "cuda:0",
    chunk_s: float = 0.0,
    batch: int = 3,
    policy: Policy = POLICY,
    probe: Callable[[str], str] = lambda _device: "",
    **settings: object,
) -> AsyncIterator[Dispatch]:
    Script(misdeeds, chunk_s=chunk_s).write(tmp_path)
    recovery = RecoverySettings.model_construct(**{"stall_s": 1.0, "cpu_fallback": True, "on_poison": "gap"} | settings)
    dispatch = Dispatch(recovery)

    async def probed(at: str) -> str:
        return probe(at)

    dispatch.pool = Pool(
        settings=WorkerSettings(idle_unload_s=settings.pop("idle_unload_s", 0.0)),
        recovery=recovery,
        state_dir=tmp_path,
        main_loop=MainLoop(asyncio.get_running_loop()),
        clock=SystemClock(),
        on_report=dispatch.on_report,
        on_lost=dispatch.on_lost,
        on_device=dispatch.changes.append,
        on_room=dispatch.room,
        target=SCRIPTED,
        specs=(WorkerSpec(device, "auto", 1, batch, str(tmp_path)),),
        policy=policy,
        probe=probed,
    )
    await dispatch.pool.start()
    try:
        yield dispatch
    finally:
        pids = [status.pid for status in dispatch.pool.status() if status.pid]
        await dispatch.pool.stop(0.5)
        assert not any(map(psutil.pid_exists, pids)), "a worker or a zombie was left"


def files(folder: Path, count: int = 4, chunks: int = 3) -> list[Path]:
    paths = [folder / f"{name}.audio" for name in "abcdefghijklmnop"[:count]]
    for path in paths:
        path.write_bytes(path.name.encode() * (PIECE * chunks // len(path.name)))
    return paths


async def test_every_file_gets_its_text(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        run.add(*files(tmp_path, 12))
        await run.finished()
        run.check_texts()
    assert not run.lost


ONE_DEATH = [
    (Misdeed("fault", text=ILLEGAL), FaultKind.CONTEXT_LOST),
    (Misdeed("fault", text="RuntimeError: CUDA failed with error out of memory"), FaultKind.OUT_OF_MEMORY),
    (Misdeed("fault", text="RuntimeError: what nobody has seen yet"), FaultKind.UNKNOWN),
    (Misdeed("abort"), FaultKind.CONTEXT_LOST),
    (Misdeed("last_words", text=f"terminate called\n what(): {ILLEGAL}\n"), FaultKind.CONTEXT_LOST),
    (Misdeed("segfault"), FaultKind.CONTEXT_LOST),
    (Misdeed("exit", status=0), FaultKind.UNKNOWN),
    (Misdeed("exit", status=70), FaultKind.UNKNOWN),
    (Misdeed("hang"), FaultKind.HANG),
    (Misdeed("stop"), FaultKind.HANG),
    (Misdeed("garbage"), FaultKind.UNKNOWN),
    (Misdeed("deliver_and_abort"), FaultKind.CONTEXT_LOST),
    pytest.param(Misdeed("eat_memory"), FaultKind.HOST_MEMORY, marks=posix_only),
    pytest.param(Misdeed("half_message"), FaultKind.UNKNOWN, marks=posix_only),
]


@pytest.mark.parametrize(("misdeed", "kind"), ONE_DEATH, ids=lambda value: getattr(value, "do", None))
async def test_one_death_costs_nothing(tmp_path: Path, misdeed: Misdeed, kind: FaultKind) -> None:
    """In the middle of the second file, with others in flight: everything is done, nobody is blamed."""
    misdeed = Misdeed(**{slot: getattr(misdeed, slot) for slot in misdeed.__slots__} | {"file": "b.audio", "chunk": 1})
    async with running(tmp_path, misdeed, stall_s=0.4) as run:
        run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.kinds() == [kind]
    assert {work.ended for work in run.work.values()} == {"completed"}
    assert not any(chunk.gap for work in run.work.values() for chunk in work.done.values())
    down = [change.down_s for change in run.changes if change.down_s is not None]
    assert len(down) == 1
