"""The dispatcher with real worker processes, which run the scripted engine: every way to die, and nothing is lost."""

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_letters

import psutil
import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.config import InboxSettings, RecoverySettings, Settings
from speakeasyd.domain.device_health import DeviceState, RecoveryPolicy
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.job import Job, JobId, NewJob, Signature, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Drained,
    Hello,
    Loaded,
    Report,
    SourceRef,
    Task,
    TaskDone,
)
from speakeasyd.domain.transcript import Chunk, Segment
from speakeasyd.domain.worker_pool import (
    DeviceChange,
    LostTask,
    PoolEvent,
    WorkerLost,
    WorkerPool,
    WorkerReport,
)
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.loop import MainLoop
from speakeasyd.services import dispatcher, report_handler
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.testing import (
    PIECE,
    SCRIPTED,
    Deed,
    FaultScript,
    InjectedFault,
    build_scripted_chunks,
)
from speakeasyd.workers import supervisor
from speakeasyd.workers.process import WorkerProcess
from tests.conftest import PATIENCE_S, eventually
from tests.integration.pools import POLICY, PoolSetup, build_local_pool
from tests.ledgers import opened

ILLEGAL = "RuntimeError: CUDA failed with error an illegal memory access was encountered"
INBOX = "in"
# seconds; `stall_s`: more than a busy machine makes a worker wait
DEFAULTS = {"stall_s": 20.0, "stop_grace_s": 0.5, "retry_s": 0.02}
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")

_JOBS = "SELECT id, path, status, error_code, crashes FROM jobs ORDER BY id"
_CHUNKS = """
    SELECT number, start_seconds, end_seconds, gap, (
        SELECT json_group_array(json_array(start_seconds, end_seconds, text, avg_logprob,
                                           compression_ratio, no_speech_prob, confidence))
        FROM segments WHERE segments.job_id = chunks.job_id AND chunk = number
    ) FROM chunks WHERE job_id = ? ORDER BY number
"""
_STRIKES = "SELECT chunk, strikes FROM strikes WHERE job_id = ?"


@dataclass
class Work:
    """What the ledger knows of a job."""

    path: Path
    done: dict[int, Chunk]
    strikes: dict[int, int]
    crashes: int
    ended: str  # "completed" or why it failed; empty while it has not ended


class Run:
    """A dispatcher with its ledger and pool, and what the pool has told it."""

    def __init__(self, inbox: Path, state: Path, ledger: Ledger) -> None:
        self.inbox, self.state, self.ledger = inbox, state, ledger
        self.dispatcher: Dispatcher
        self.pool: WorkerPool
        self.copies = 1  # how often each event is delivered
        self.lost: list[WorkerLost] = []
        self.lost_at = 0  # reports before the latest loss
        self.changes: list[DeviceChange] = []
        self.reports: list[Report] = []
        self.stored: set[tuple[Token, int]] = set()  # chunks by claim token and index
        self.wrong: list[PoolEvent] = []  # chunks done twice; losses of tasks that nobody claims

    async def add(self, *paths: Path) -> None:
        await self.ledger.write(add_jobs, [_new_job(path) for path in paths])
        self.dispatcher.wake()

    def on_event(self, event: PoolEvent) -> None:
        match event:
            case WorkerReport(report=report):
                self.reports.append(report)
                if isinstance(report, ChunkDone) and (job := self._find_job(report)):
                    key = report.token, report.chunk.index
                    if key in self.stored or report.chunk.index in job.done:
                        self.wrong.append(event)
                    self.stored.add(key)
            case WorkerLost():
                self.lost.append(event)
                self.lost_at = len(self.reports)
                if not all(self._find_job(task) for task in event.tasks):
                    self.wrong.append(event)
            case DeviceChange():
                self.changes.append(event)
        for _ in range(self.copies):
            self.dispatcher.enqueue_event(event)

    def _find_job(self, what: ChunkDone | LostTask) -> Job | None:
        return self.dispatcher._claims.find_job(what.job_id, what.token)

    @property
    def work(self) -> dict[JobId, Work]:
        with closing(sqlite3.connect(self.state / "ledger.db")) as ledger:
            return {
                JobId(job_id): Work(
                    path=self.inbox / path,
                    done=dict(map(_read_chunk, ledger.execute(_CHUNKS, [job_id]))),
                    strikes=dict(ledger.execute(_STRIKES, [job_id]).fetchall()),
                    crashes=crashes,
                    ended="" if status in {"pending", "processing"} else code or status,
                )
                for job_id, path, status, code, crashes in ledger.execute(_JOBS).fetchall()
            }

    async def finished(self) -> None:
        unfinished = "SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing')"
        with closing(sqlite3.connect(self.state / "ledger.db")) as ledger:
            await eventually(
                lambda: ledger.execute(unfinished).fetchone() == (0,), "the end of the work"
            )

    def kinds(self) -> list[FaultKind]:
        return [lost.kind for lost in self.lost]

    def check_texts(self) -> None:
        for work in self.work.values():
            if work.ended == "completed":
                expected = build_scripted_chunks(work.path.read_bytes())
                got = [work.done[index] for index in sorted(work.done)]
                assert got == [
                    old if new.gap is False else new for old, new in zip(expected, got, strict=True)
                ]


def _new_job(path: Path) -> NewJob:
    return NewJob(
        inbox=INBOX,
        path=os.fsencode(path.name),
        signature=Signature.of(path.stat()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        options=Options(),
        preset=None,
        batch=INBOX,
    )


def _read_chunk(row: tuple[int, float, float, int, str]) -> tuple[int, Chunk]:
    number, start, end, gap, segments = row
    parts = tuple(
        Segment(start, end, text, logprob, ratio, silence, confidence=confidence)
        for start, end, text, logprob, ratio, silence, confidence in json.loads(segments)
    )
    return number, Chunk(number, start, end, parts, gap=bool(gap))


def started(reports: Iterable[Report]) -> set[tuple[int, int]]:
    return {(report.job_id, report.index) for report in reports if isinstance(report, ChunkStarted)}


class SkippingClock(SystemClock):
    """The real time, and what was skipped of it."""

    skipped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s


async def skip_silences(
    clock: SkippingClock, run: Run, misdeeds: tuple[InjectedFault, ...], folder: Path
) -> None:
    """While a worker hangs by the script, let time pass faster, so that a long patience costs no time.

    Slowly enough that the supervisor does not take it for a sleep of the machine.
    """
    silent = [number for number, misdeed in enumerate(misdeeds) if misdeed.do in {"hang", "stop"}]
    while True:
        begun = sum((folder / "script-done" / f"{number}-0").exists() for number in silent)
        if begun > run.kinds().count(FaultKind.HANG):
            clock.skipped_s += 0.8
        await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def patience_and_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long to end a killed process. Retries need not wait long here."""
    monkeypatch.setattr(supervisor, "EXIT_S", PATIENCE_S)
    monkeypatch.setattr(dispatcher, "TICK_S", 0.1)
    monkeypatch.setattr(dispatcher, "CHECK_QUEUE_S", 0.1)
    monkeypatch.setattr(report_handler, "HOLD_S", 0.1)


@asynccontextmanager
async def running(
    tmp_path: Path,
    *misdeeds: InjectedFault,
    device: str = "cuda:0",
    chunk_s: float = 0.0,
    load_s: float = 0.0,
    batch: int = 3,
    policy: RecoveryPolicy = POLICY,
    probe: Callable[[str], str] = lambda _device: "",
    target: str = SCRIPTED,
    idle_unload_s: float = 0.0,
    **settings: object,
) -> AsyncIterator[Run]:
    FaultScript(misdeeds, chunk_s=chunk_s, load_s=load_s).write_to(tmp_path)
    clock = SkippingClock()
    inbox = InboxSettings(path=tmp_path / INBOX, outbox=tmp_path / "outbox", name=INBOX)
    inbox.path.mkdir(exist_ok=True)
    recovery = RecoverySettings.model_validate(DEFAULTS | settings)
    wanted = Settings(state=tmp_path, inboxes=(inbox,), recovery=recovery)

    async def probed(at: str) -> str:
        return probe(at)

    hub = EventHub()
    async with opened(tmp_path / "ledger.db", clock=SystemClock(), hub=hub) as ledger:
        run = Run(inbox.path, tmp_path, ledger)
        run.pool = build_local_pool(
            PoolSetup(
                state=tmp_path,
                folders={INBOX: inbox.path},
                main_loop=MainLoop(asyncio.get_running_loop()),
                devices=tuple(device.split()),
                batch=batch,
                recovery=recovery,
                policy=policy,
                probe=probed,
                idle_unload_s=idle_unload_s,
                clock=clock,
                target=target,
            )
        )
        run.dispatcher = await build_dispatcher(run, wanted, hub)
        await run.pool.start(run.on_event)
        await run.dispatcher.start()
        skipping = asyncio.create_task(skip_silences(clock, run, misdeeds, tmp_path))
        try:
            yield run
        finally:
            skipping.cancel()
            pids = [status.pid for status in run.pool.status() if status.pid]
            await run.dispatcher.stop()
            assert not any(map(psutil.pid_exists, pids)), "a worker or a zombie was left"
    assert not run.wrong


async def build_dispatcher(run: Run, settings: Settings, hub: EventHub) -> Dispatcher:
    clock = SystemClock()
    pauses = Pauses(ledger=run.ledger, hub=hub, clock=clock)
    outboxes = Outboxes(inboxes=settings.inboxes, pauses=pauses)
    await outboxes.prepare_folders()
    sources = SourceDisposal(ledger=run.ledger, settings=settings, hub=hub, clock=clock)
    return Dispatcher(
        ledger=run.ledger,
        pool=run.pool,
        publisher=Publisher(ledger=run.ledger, outboxes=outboxes, sources=sources),
        outboxes=outboxes,
        pauses=pauses,
        incidents=Incidents(ledger=run.ledger),
        settings=settings,
        clock=clock,
    )


def files(folder: Path, count: int = 4, chunks: int = 3) -> list[Path]:
    inbox = folder / INBOX
    inbox.mkdir(exist_ok=True)
    paths = [inbox / f"{name}.audio" for name in ascii_letters[:count]]
    for path in paths:
        path.write_bytes(path.name.encode() * (PIECE * chunks // len(path.name)))
    return paths


async def test_every_file_gets_its_text(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await run.add(*files(tmp_path, 12))
        await run.finished()
        run.check_texts()
    assert not run.lost


async def test_doubled_and_late_results_change_nothing(tmp_path: Path) -> None:
    """A report counts for the claim whose token it has, and once."""
    async with running(tmp_path) as run:
        run.copies = 2
        await run.add(*files(tmp_path))
        late = Segment(0.0, 1.0, " of an earlier claim", -0.1, 1.0, 0.0)
        for job_id in map(JobId, range(1, 5)):
            chunk = ChunkDone(job_id, Token("earlier"), Chunk(0, 0.0, 1.0, (late,)))
            run.dispatcher.enqueue_event(WorkerReport("cuda-0", chunk))
            done = TaskDone(job_id, Token("earlier"), 1.0)
            run.dispatcher.enqueue_event(WorkerReport("cuda-0", done))
        await run.finished()
        run.check_texts()
        assert [work.ended for work in run.work.values()] == ["completed"] * 4
        completed = "SELECT job_id, count(*) FROM events WHERE kind = 'job.completed' GROUP BY 1"
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
            assert ledger.execute(completed).fetchall() == [(n, 1) for n in range(1, 5)]
    assert not run.lost


ONE_DEATH = [
    (InjectedFault("fault", text=ILLEGAL), FaultKind.CONTEXT_LOST),
    (InjectedFault("abort"), FaultKind.CONTEXT_LOST),
    (
        InjectedFault("last_words", text=f"terminate called\n what(): {ILLEGAL}\n"),
        FaultKind.CONTEXT_LOST,
    ),
    (InjectedFault("segfault"), FaultKind.CONTEXT_LOST),
    (InjectedFault("exit", status=0), FaultKind.UNKNOWN),
    (InjectedFault("hang"), FaultKind.HANG),
    (InjectedFault("stop"), FaultKind.HANG),
    (InjectedFault("garbage"), FaultKind.UNKNOWN),
    (InjectedFault("deliver_and_abort"), FaultKind.CONTEXT_LOST),
    pytest.param(InjectedFault("eat_memory"), FaultKind.HOST_MEMORY, marks=posix_only),
    pytest.param(InjectedFault("half_message"), FaultKind.UNKNOWN, marks=posix_only),
]


@pytest.mark.parametrize(
    ("misdeed", "kind"), ONE_DEATH, ids=lambda value: getattr(value, "do", None)
)
async def test_one_death_costs_nothing(
    tmp_path: Path, misdeed: InjectedFault, kind: FaultKind
) -> None:
    """In the middle of the second file, with others in flight: everything is done, nobody is blamed."""
    misdeed = InjectedFault(
        **{slot: getattr(misdeed, slot) for slot in misdeed.__slots__}
        | {"file": "b.audio", "chunk": 1}
    )
    async with running(tmp_path, misdeed) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.kinds() == [kind]
    assert {work.ended for work in run.work.values()} == {"completed"}
    assert not any(chunk.gap for work in run.work.values() for chunk in work.done.values())
    down = [change.down_s for change in run.changes if change.down_s is not None]
    assert len(down) == 1


# --- poison and innocents ---------------------------------------------------------------------------------------------


async def test_poison_on_the_gpu_is_done_by_the_cpu(tmp_path: Path) -> None:
    async with running(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=1, device="cuda", times=0)
    ) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
        devices = [status.device for status in run.pool.status()]
    assert len(run.lost) == 2  # once among others, once alone
    assert run.work[JobId(2)].strikes[1] == 2
    assert not any(chunk.gap for work in run.work.values() for chunk in work.done.values())
    assert devices == ["cuda:0", "cpu"]


@pytest.mark.parametrize(("on_poison", "ended"), [("gap", "completed"), ("fail", "poison")])
async def test_poison_everywhere_costs_three_workers(
    tmp_path: Path, on_poison: str, ended: str
) -> None:
    poison = InjectedFault("abort", file="b.audio", chunk=1, times=0)
    async with running(tmp_path, poison, on_poison=on_poison) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert [lost.device for lost in run.lost] == ["cuda:0", "cuda:0", "cpu"]
    assert [work.ended for work in run.work.values()] == [
        "completed",
        ended,
        "completed",
        "completed",
    ]
    gaps = {
        (job, chunk.index)
        for job, work in run.work.items()
        for chunk in work.done.values()
        if chunk.gap
    }
    assert gaps == ({(2, 1)} if on_poison == "gap" else set())


async def test_a_suspect_is_tried_with_nothing_beside_it(tmp_path: Path) -> None:
    async with running(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=1), chunk_s=0.01
    ) as run:
        await run.add(*files(tmp_path, 8))
        await run.finished()
    suspects = {(task.job_id, chunk.index) for task in run.lost[0].tasks for chunk in task.suspects}
    assert (2, 1) in suspects
    assert len(suspects) > 1
    in_flight: set[tuple[int, int]] = set()
    for report in run.reports[run.lost_at :]:
        match report:
            case ChunkStarted(job_id, _, index):
                in_flight.add((job_id, index))
                assert len(in_flight) == 1 or not in_flight & suspects
            case ChunkDone(job_id, _, chunk):
                in_flight.discard((job_id, chunk.index))
            case _:
                pass


async def test_a_file_that_kills_its_reader_is_found_among_those_open(tmp_path: Path) -> None:
    killer = InjectedFault("abort", at="open", file="c.audio", times=2)
    async with running(tmp_path, killer) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.work[JobId(3)].crashes == 2
    assert all(work.crashes <= 1 for job, work in run.work.items() if job != 3)
    assert not any(task.suspects for lost in run.lost for task in lost.tasks)


async def test_a_bad_file_costs_no_worker(tmp_path: Path) -> None:
    bad = InjectedFault("refuse", at="open", file="b.audio", text="a picture")
    async with running(tmp_path, bad) as run:
        await run.add(*files(tmp_path))
        await run.finished()
    assert [work.ended for work in run.work.values()] == [
        "completed",
        "not_media",
        "completed",
        "completed",
    ]
    assert not run.lost


# --- devices ----------------------------------------------------------------------------------------------------------


async def test_faults_on_different_files_condemn_the_device_until_a_probe_passes(
    tmp_path: Path,
) -> None:
    sick = [InjectedFault("fault", text=ILLEGAL, file=f"{name}.audio", chunk=0) for name in "abc"]
    answers = ["the driver sleeps", ""]
    async with running(tmp_path, *sick, batch=1, probe=lambda _device: answers.pop(0)) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    states = [change.state for change in run.changes]
    opened = states.index(DeviceState.DEVICE_OPEN)
    assert states.index(DeviceState.HALF_OPEN) > opened
    assert states.index(DeviceState.BUSY, opened) > states.index(DeviceState.HALF_OPEN)
    assert len(run.lost) == 3
    assert answers == []


async def test_a_missing_library_is_told_and_waited_for(tmp_path: Path) -> None:
    """Nobody is blamed, nothing spins, and mending it is noticed."""
    text = "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"
    missing = InjectedFault("fault", at="load", phase="load", text=text)
    mended = asyncio.Event()
    async with running(
        tmp_path, missing, probe=lambda _device: "" if mended.is_set() else text
    ) as run:
        await run.add(*files(tmp_path))
        await eventually(lambda: run.pool.blocked_reason is not None, "the pause")
        assert "speakeasyd[gpu]" in (run.pool.blocked_reason or "")
        assert run.pool.capacity("auto") == 0
        mended.set()
        await run.finished()
        run.check_texts()
    assert run.kinds() == [FaultKind.CONFIGURATION]
    assert not any(work.strikes or work.crashes for work in run.work.values())


@pytest.mark.parametrize("deed", ["abort", "segfault"])
async def test_workers_that_die_before_any_work_need_a_person_in_the_end(
    tmp_path: Path, deed: Deed
) -> None:
    async with running(tmp_path, InjectedFault(deed, at="load", times=0), device="cpu") as run:
        await run.add(*files(tmp_path))
        await eventually(lambda: run.pool.fatal_diagnosis is not None, "the end of hope")
        assert run.pool.fatal_diagnosis
        assert "GPU" not in run.pool.fatal_diagnosis.what
    assert not any(work.strikes or work.crashes for work in run.work.values())


async def test_a_defect_in_loading_is_not_tried_for_ever(tmp_path: Path) -> None:
    text = "TypeError: open() got an unexpected keyword argument"
    async with running(
        tmp_path, InjectedFault("fault", at="load", phase="canary", text=text, times=0)
    ) as run:
        await run.add(*files(tmp_path))
        await eventually(lambda: run.pool.fatal_diagnosis is not None, "the end of the tries")
        assert "install speakeasyd again" in (run.pool.blocked_reason or "")
    assert run.kinds() == [FaultKind.DEFECT] * POLICY.faults_to_open


async def test_a_defect_that_some_files_meet_stops_no_others(tmp_path: Path) -> None:
    text = "AttributeError: 'NoneType' object has no attribute 'layout'"
    odd = [InjectedFault("fault", file=f"{name}.audio", text=text, times=0) for name in "abc"]
    policy = replace(POLICY, restart_max_s=0.1, probe_max_s=0.1)
    async with running(tmp_path, *odd, device="cpu", policy=policy) as run:
        await run.add(*files(tmp_path, count=6))
        await run.finished()
        run.check_texts()
    gaps = [any(chunk.gap for chunk in work.done.values()) for work in run.work.values()]
    assert gaps == [True] * 3 + [False] * 3


async def test_a_bad_model_blames_neither_device_nor_work(tmp_path: Path) -> None:
    text = "ModelUnavailable: no model 'tiny.xx'"
    async with running(
        tmp_path, InjectedFault("fault", at="load", phase="load", text=text, times=2)
    ) as run:
        await run.add(*files(tmp_path))
        await run.finished()
    assert run.kinds() == [FaultKind.CONFIGURATION] * 2
    assert DeviceState.DEVICE_OPEN not in {change.state for change in run.changes}
    assert not any(work.strikes or work.crashes for work in run.work.values())


async def test_the_cpu_stands_in_if_it_may(tmp_path: Path) -> None:
    text = "RuntimeError: CUDA failed with error unknown error"
    policy = replace(POLICY, cpu_stand_in=True)
    asleep = InjectedFault("fault", at="load", phase="load", device="cuda", text=text, times=0)
    async with running(tmp_path, asleep, policy=policy, probe=lambda _device: text) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
        assert next((status.device, status.state) for status in run.pool.status()) == (
            "cuda:0",
            DeviceState.CPU_ONLY,
        )
    assert {report.device for report in run.reports if isinstance(report, Loaded)} == {"cpu"}


async def test_an_engine_that_cannot_be_imported_is_a_matter_for_a_person(tmp_path: Path) -> None:
    async with running(tmp_path, target="speakeasyd.no_such_module:serve") as run:
        await eventually(lambda: run.pool.blocked_reason is not None, "the pause")
    assert "ModuleNotFoundError" in run.lost[0].error
    assert "no_such_module" in run.lost[0].last_words


async def test_work_goes_to_the_device_that_is_well(tmp_path: Path) -> None:
    text = "RuntimeError: CUDA failed with error unknown error"
    asleep = InjectedFault("fault", at="load", phase="load", text=text)
    async with running(tmp_path, asleep, device="cuda:0 cuda:1", probe=lambda _device: text) as run:
        await run.add(*files(tmp_path, 12))
        await run.finished()
        run.check_texts()
        assert run.pool.blocked_reason is None
        states = [status.state for status in run.pool.status()]
    assert len(run.lost) == 1
    assert DeviceState.DEVICE_OPEN in states
    assert len({DeviceState.READY, DeviceState.BUSY} & set(states)) == 1


async def test_a_bad_day(tmp_path: Path) -> None:
    """Everything at once: each file gets its text, and one chunk that nothing can do is marked."""
    single: list[Deed] = [
        "abort",
        "segfault",
        "exit",
        "hang",
        "stop",
        "garbage",
        "deliver_and_abort",
        "soft_fault",
    ]
    misdeeds = [
        InjectedFault(deed, file=f"{name}.audio", chunk=1)
        for deed, name in zip(single, "abcdefgh", strict=True)
    ]
    misdeeds += [
        InjectedFault("fault", text=ILLEGAL, file="i.audio", chunk=2),
        InjectedFault("abort", file="j.audio", chunk=0, times=0),
        InjectedFault("abort", at="open", file="k.audio"),
        InjectedFault(
            "fault", at="load", phase="canary", text="CanaryFailed: la la la", after="segfault"
        ),
    ]
    async with running(tmp_path, *misdeeds) as run:
        await run.add(*files(tmp_path, 12))
        await run.finished()
        run.check_texts()
    assert {work.ended for work in run.work.values()} == {"completed"}
    gaps = {
        (job, chunk.index)
        for job, work in run.work.items()
        for chunk in work.done.values()
        if chunk.gap
    }
    assert gaps == {(10, 0)}
    assert len(run.lost) <= 24


# --- soft restarts, silence, wear -------------------------------------------------------------------------------------

FULL = "RuntimeError: CUDA failed with error out of memory"


async def test_a_soft_restart_keeps_the_worker_and_its_tasks(tmp_path: Path) -> None:
    async with running(
        tmp_path, InjectedFault("soft_fault", text=FULL, file="b.audio", chunk=1)
    ) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert not run.lost
    assert DeviceState.SOFT_RESTARTING in {change.state for change in run.changes}
    assert len([report for report in run.reports if isinstance(report, Hello)]) == 1


async def test_a_soft_restart_that_fails_becomes_a_hard_one(tmp_path: Path) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="b.audio", chunk=1)
    again = InjectedFault(
        "fault", at="load", phase="canary", text="CanaryFailed: 'la la la'", after="soft_fault"
    )
    async with running(tmp_path, soft, again) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.kinds() == [FaultKind.CONTEXT_LOST]


async def test_a_worker_that_mends_itself_for_ever_is_ended(tmp_path: Path) -> None:
    """Also when it has loaded at last just before its end: it is told by its fault, not by the kill."""
    soft = InjectedFault(
        "soft_fault", at="load", phase="load", text=FULL, times=POLICY.soft_limit + 2
    )
    async with running(tmp_path, soft, load_s=0.05, chunk_s=0.2) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.kinds() == [FaultKind.OUT_OF_MEMORY]
    assert len([report for report in run.reports if isinstance(report, Hello)]) == 2


async def test_a_fresh_worker_begins_with_the_settings_that_its_predecessor_came_down_to(
    tmp_path: Path,
) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="a.audio", chunk=0)
    abort = InjectedFault("abort", file="a.audio", chunk=2, after="soft_fault")
    async with running(
        tmp_path, soft, abort, batch=4, load_s=2.0
    ) as run:  # while it loads, all tasks come
        await run.add(*files(tmp_path, 8))
        await run.finished()
        run.check_texts()
    assert (
        most_at_once(run.reports[: run.lost_at]) == 4
    )  # the scripted engine itself knows no smaller way
    assert most_at_once(run.reports[run.lost_at :]) == 2


async def test_after_a_recycling_the_wanted_settings_are_tried_again(tmp_path: Path) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="a.audio", chunk=0)
    async with running(tmp_path, soft, batch=4, recycle_hours=100 / 3600) as run:
        await run.add(*files(tmp_path, 52))
        await run.finished()
    starts = [number for number, report in enumerate(run.reports) if isinstance(report, Hello)]
    assert most_at_once(run.reports[starts[1] :]) == 4


def most_at_once(reports: Iterable[Report]) -> int:
    now = most = 0
    for report in reports:
        now += isinstance(report, ChunkStarted)
        now -= isinstance(report, ChunkDone)
        most = max(most, now)
    return most


async def test_a_worker_that_hangs_in_loading_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, InjectedFault("hang", at="load")) as run:
        await run.add(*files(tmp_path))
        await run.finished()
        run.check_texts()
    assert run.kinds() == [FaultKind.HANG]


async def test_a_worker_that_cannot_be_killed_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that hangs in a driver: its work must not wait for it."""
    monkeypatch.setattr(supervisor, "EXIT_S", 0.3)
    with monkeypatch.context() as immortal:
        immortal.setattr(WorkerProcess, "kill", lambda _process: None)
        async with running(tmp_path, InjectedFault("stop", file="b.audio", chunk=1)) as run:
            await run.add(*files(tmp_path))
            await eventually(lambda: run.pool.status()[0].tasks, "work")
            stuck = psutil.Process(run.pool.status()[0].pid)
            await run.finished()
            run.check_texts()
            assert stuck.is_running()
            immortal.undo()
            stuck.kill()
            await eventually(lambda: not stuck.is_running(), "its burial")
    assert run.kinds() == [FaultKind.HANG]


async def test_a_worker_is_recycled_between_files(tmp_path: Path) -> None:
    async with running(tmp_path, recycle_hours=100 / 3600) as run:
        await run.add(*files(tmp_path, 48))
        await run.finished()
        run.check_texts()
    assert not run.lost
    assert len([report for report in run.reports if isinstance(report, Hello)]) > 1


async def test_an_idle_worker_is_ended_and_another_started_for_the_next_task(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, idle_unload_s=0.1) as run:
        await run.add(*files(tmp_path, 1))
        await eventually(lambda: run.pool.status()[0].pid is None, "the end of the worker")
        assert run.pool.status()[0].state is DeviceState.UNLOADED
        await run.add(files(tmp_path, 2)[1])
        await run.finished()
    assert len([report for report in run.reports if isinstance(report, Loaded)]) == 2


async def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, chunk_s=0.05) as run:
        await run.add(*files(tmp_path))
        await eventually(
            lambda: any(isinstance(report, ChunkDone) for report in run.reports), "a chunk"
        )
        psutil.Process(run.pool.status()[0].pid).kill()
        await run.finished()
        run.check_texts()
    assert len(run.lost) == 1


async def test_a_dropped_job_is_forgotten(tmp_path: Path) -> None:
    async with running(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=2), chunk_s=0.05, batch=1
    ) as run:
        await run.add(*files(tmp_path, 2, chunks=4))
        await eventually(
            lambda: any(isinstance(report, ChunkStarted) for report in run.reports), "work"
        )
        run.pool.drop_job(JobId(1))
        await run.ledger.cancel_jobs([1])
        await run.finished()
    assert not any(isinstance(report, TaskDone) and report.job_id == 1 for report in run.reports)
    assert {task.job_id for lost in run.lost for task in lost.tasks} == {2}


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_stopping_finishes_the_chunks_in_flight(tmp_path: Path) -> None:
    async with running(tmp_path, chunk_s=0.1) as run:
        await run.add(*files(tmp_path, chunks=50))
        await eventually(lambda: len(run.reports) > 20, "work")
        await run.pool.stop(PATIENCE_S)
    assert started(run.reports) == {
        (r.job_id, r.chunk.index) for r in run.reports if isinstance(r, ChunkDone)
    }
    assert isinstance(run.reports[-1], Drained)
    assert not run.lost


@pytest.mark.parametrize("deed", ["hang", "stop"])
async def test_stopping_does_not_wait_for_the_dead(tmp_path: Path, deed: str) -> None:
    async with running(tmp_path, InjectedFault(deed, file="b.audio", chunk=1)) as run:
        await run.add(*files(tmp_path))
        await eventually(lambda: (2, 1) in started(run.reports), "the chunk")
        await asyncio.wait_for(run.pool.stop(0.3), PATIENCE_S)  # the worker itself would never end
    assert not run.lost


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, chunk_s=3600.0) as run:
        await run.add(*files(tmp_path))
        await eventually(
            lambda: any(isinstance(report, ChunkStarted) for report in run.reports), "work"
        )
        stopping = asyncio.create_task(run.pool.stop(3600.0))
        await asyncio.sleep(0)
        run.pool.kill()
        await asyncio.wait_for(stopping, PATIENCE_S)


PARENT = """
import asyncio, sys
from pathlib import Path
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkStarted, SourceRef, Task
from speakeasyd.domain.worker_pool import WorkerReport
from speakeasyd.loop import MainLoop
from tests.integration.pools import PoolSetup, build_local_pool

state = Path(sys.argv[1])

async def main():
    main_loop = MainLoop(asyncio.get_running_loop())
    pool = build_local_pool(PoolSetup(state=state, folders={"in": state / "in"}, main_loop=main_loop, devices=("cpu",)))

    def on_event(event):
        if isinstance(event, WorkerReport) and isinstance(event.report, ChunkStarted):
            print(pool.status()[0].pid, flush=True)

    await pool.start(on_event)
    while not pool.capacity("auto"):
        await asyncio.sleep(0.01)
    pool.submit_task(Task(JobId(1), Token("t"), SourceRef("in", b"a.audio"), Options(), "en"))
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a stopped worker cannot notice; see the next test"
)
def test_a_killed_daemon_leaves_no_worker_even_a_stopped_one(tmp_path: Path) -> None:
    FaultScript((InjectedFault("stop"),)).write_to(tmp_path)
    assert_no_orphan(tmp_path)


def test_a_killed_daemon_leaves_no_worker(tmp_path: Path) -> None:
    FaultScript(chunk_s=0.2).write_to(tmp_path)
    assert_no_orphan(tmp_path)


def assert_no_orphan(tmp_path: Path) -> None:
    files(tmp_path, 1, chunks=1000)
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, tmp_path / "parent.py", tmp_path]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    worker.wait(PATIENCE_S)


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
async def test_a_full_pipe_to_a_stopped_worker_holds_nobody_up(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        await eventually(lambda: run.pool.capacity("auto") > 0, "a worker")
        psutil.Process(run.pool.status()[0].pid).suspend()
        large = frozenset(range(200_000))  # far more than a pipe holds
        for number in range(5):
            run.pool.submit_task(
                Task(JobId(number), Token(""), SourceRef(INBOX, b""), Options(), None, skip=large)
            )
        await run.pool.stop(
            0.1
        )  # it got here: a write that waited for the worker would never have returned


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends CTRL_C to a console, not to a process"
)
@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
async def test_a_request_to_stop_is_left_to_the_parent(
    tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    async with running(tmp_path) as run:
        await eventually(lambda: run.pool.capacity("auto") > 0, "a worker")
        os.kill(run.pool.status()[0].pid or 0, request_to_stop)
        await run.add(*files(tmp_path))
        await run.finished()
    assert not run.lost


async def test_nothing_warns_in_debug_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = PATIENCE_S  # how quick this machine is does not matter here
    async with running(tmp_path, InjectedFault("abort", file="b.audio", chunk=1)) as run:
        await run.add(*files(tmp_path))
        await run.finished()
    assert not [
        record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}
    ]
