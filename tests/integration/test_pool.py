"""The dispatcher with real worker processes that run the scripted engine and fail in every way."""

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
    FaultAction,
    FaultScript,
    InjectedFault,
    build_scripted_chunks,
)
from speakeasyd.workers import supervisor
from speakeasyd.workers.process import WorkerProcess
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.pools import POLICY, PoolSetup, build_local_pool
from tests.ledgers import open_ledger

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
class JobResult:
    """The ledger's record of a job."""

    path: Path
    done: dict[int, Chunk]
    strikes: dict[int, int]
    crashes: int
    ended: str  # "completed" or the error code; empty before the end


class DispatcherSetup:
    """A dispatcher with its ledger and pool, and the events of the pool."""

    def __init__(self, inbox: Path, state: Path, ledger: Ledger) -> None:
        self.inbox, self.state, self.ledger = inbox, state, ledger
        self.dispatcher: Dispatcher
        self.pool: WorkerPool
        self.copies = 1  # deliveries of each event
        self.lost: list[WorkerLost] = []
        self.lost_at = 0  # reports before the latest lost task
        self.changes: list[DeviceChange] = []
        self.reports: list[Report] = []
        self.stored: set[tuple[Token, int]] = set()  # chunks by claim token and index
        self.wrong: list[PoolEvent] = []  # repeated chunks; lost tasks without a claim

    async def add_jobs(self, *paths: Path) -> None:
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
    def read_result(self) -> dict[JobId, JobResult]:
        with closing(sqlite3.connect(self.state / "ledger.db")) as ledger:
            return {
                JobId(job_id): JobResult(
                    path=self.inbox / path,
                    done=dict(map(_read_chunk, ledger.execute(_CHUNKS, [job_id]))),
                    strikes=dict(ledger.execute(_STRIKES, [job_id]).fetchall()),
                    crashes=crashes,
                    ended="" if status in {"pending", "processing"} else code or status,
                )
                for job_id, path, status, code, crashes in ledger.execute(_JOBS).fetchall()
            }

    async def wait_for_all_jobs(self) -> None:
        unfinished = "SELECT count(*) FROM jobs WHERE status IN ('pending', 'processing')"
        with closing(sqlite3.connect(self.state / "ledger.db")) as ledger:
            await wait_until(
                lambda: ledger.execute(unfinished).fetchone() == (0,), "the end of the work"
            )

    def list_fault_kinds(self) -> list[FaultKind]:
        return [lost.kind for lost in self.lost]

    def check_texts(self) -> None:
        for work in self.read_result.values():
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


def list_started_chunks(reports: Iterable[Report]) -> set[tuple[int, int]]:
    return {(report.job_id, report.index) for report in reports if isinstance(report, ChunkStarted)}


class SkippingClock(SystemClock):
    """The system clock plus the time that was skipped."""

    skipped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s


async def skip_silences(
    clock: SkippingClock, setup: DispatcherSetup, faults: tuple[InjectedFault, ...], folder: Path
) -> None:
    """Skip time while a script makes a worker hang, so that the test need not wait.

    Each step is so short that the supervisor does not detect a sleep of the machine.
    """
    silent = [
        number for number, injected in enumerate(faults) if injected.action in {"hang", "stop"}
    ]
    while True:
        begun = sum((folder / "script-done" / f"{number}-0").exists() for number in silent)
        if begun > setup.list_fault_kinds().count(FaultKind.HANG):
            clock.skipped_s += 0.8
        await asyncio.sleep(0.1)


@pytest.fixture(autouse=True)
def adjust_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow long kills on a busy machine, and retry soon."""
    monkeypatch.setattr(supervisor, "EXIT_S", PATIENCE_S)
    monkeypatch.setattr(dispatcher, "TICK_S", 0.1)
    monkeypatch.setattr(dispatcher, "IDLE_TICK_S", 0.1)
    monkeypatch.setattr(dispatcher, "CHECK_QUEUE_S", 0.1)
    monkeypatch.setattr(report_handler, "HOLD_S", 0.1)


@asynccontextmanager
async def run_dispatcher(
    tmp_path: Path,
    *faults: InjectedFault,
    device: str = "cuda:0",
    chunk_s: float = 0.0,
    load_s: float = 0.0,
    batch: int = 3,
    policy: RecoveryPolicy = POLICY,
    probe: Callable[[str], str] = lambda _device: "",
    target: str = SCRIPTED,
    idle_unload_s: float = 0.0,
    **settings: object,
) -> AsyncIterator[DispatcherSetup]:
    FaultScript(faults, chunk_s=chunk_s, load_s=load_s).write_to(tmp_path)
    clock = SkippingClock()
    inbox = InboxSettings(path=tmp_path / INBOX, outbox=tmp_path / "outbox", name=INBOX)
    inbox.path.mkdir(exist_ok=True)
    recovery = RecoverySettings.model_validate(DEFAULTS | settings)
    wanted = Settings(state=tmp_path, inboxes=(inbox,), recovery=recovery)

    async def find_fault(at: str) -> str:
        return probe(at)

    hub = EventHub()
    async with open_ledger(tmp_path / "ledger.db", clock=SystemClock(), hub=hub) as ledger:
        setup = DispatcherSetup(inbox.path, tmp_path, ledger)
        setup.pool = build_local_pool(
            PoolSetup(
                state=tmp_path,
                folders={INBOX: inbox.path},
                main_loop=MainLoop(asyncio.get_running_loop()),
                devices=tuple(device.split()),
                batch=batch,
                recovery=recovery,
                policy=policy,
                probe=find_fault,
                idle_unload_s=idle_unload_s,
                clock=clock,
                target=target,
            )
        )
        setup.dispatcher = await build_dispatcher(setup, wanted, hub)
        await setup.pool.start(setup.on_event)
        await setup.dispatcher.start()
        skipping = asyncio.create_task(skip_silences(clock, setup, faults, tmp_path))
        try:
            yield setup
        finally:
            skipping.cancel()
            pids = [status.pid for status in setup.pool.status() if status.pid]
            await setup.dispatcher.stop()
            assert not any(map(psutil.pid_exists, pids)), "a worker or a zombie was left"
    assert not setup.wrong


async def build_dispatcher(setup: DispatcherSetup, settings: Settings, hub: EventHub) -> Dispatcher:
    clock = SystemClock()
    pauses = Pauses(ledger=setup.ledger, hub=hub, clock=clock)
    outboxes = Outboxes(inboxes=settings.inboxes, pauses=pauses)
    await outboxes.prepare_folders()
    sources = SourceDisposal(ledger=setup.ledger, settings=settings, hub=hub, clock=clock)
    return Dispatcher(
        ledger=setup.ledger,
        pool=setup.pool,
        publisher=Publisher(ledger=setup.ledger, outboxes=outboxes, sources=sources),
        outboxes=outboxes,
        pauses=pauses,
        incidents=Incidents(ledger=setup.ledger),
        settings=settings,
        clock=clock,
    )


def create_files(folder: Path, count: int = 4, chunks: int = 3) -> list[Path]:
    inbox = folder / INBOX
    inbox.mkdir(exist_ok=True)
    paths = [inbox / f"{name}.audio" for name in ascii_letters[:count]]
    for path in paths:
        path.write_bytes(path.name.encode() * (PIECE * chunks // len(path.name)))
    return paths


async def test_every_file_gets_its_text(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path) as setup:
        await setup.add_jobs(*create_files(tmp_path, 12))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert not setup.lost


async def test_repeated_and_late_results_change_nothing(tmp_path: Path) -> None:
    """A report counts once, and only for the claim whose token it has."""
    async with run_dispatcher(tmp_path) as setup:
        setup.copies = 2
        await setup.add_jobs(*create_files(tmp_path))
        late = Segment(0.0, 1.0, " of an earlier claim", -0.1, 1.0, 0.0)
        for job_id in map(JobId, range(1, 5)):
            chunk = ChunkDone(job_id, Token("earlier"), Chunk(0, 0.0, 1.0, (late,)))
            setup.dispatcher.enqueue_event(WorkerReport("cuda-0", chunk))
            done = TaskDone(job_id, Token("earlier"), 1.0)
            setup.dispatcher.enqueue_event(WorkerReport("cuda-0", done))
        await setup.wait_for_all_jobs()
        setup.check_texts()
        assert [work.ended for work in setup.read_result.values()] == ["completed"] * 4
        completed = "SELECT job_id, count(*) FROM events WHERE kind = 'job.completed' GROUP BY 1"
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
            assert ledger.execute(completed).fetchall() == [(n, 1) for n in range(1, 5)]
    assert not setup.lost


SINGLE_FAULTS = [
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
    ("injected", "kind"), SINGLE_FAULTS, ids=lambda value: getattr(value, "action", None)
)
async def test_a_single_fault_loses_nothing(
    tmp_path: Path, injected: InjectedFault, kind: FaultKind
) -> None:
    """The fault hits the second file while others are in flight.

    All jobs complete, without failed attempts.
    """
    injected = InjectedFault(
        **{slot: getattr(injected, slot) for slot in injected.__slots__}
        | {"file": "b.audio", "chunk": 1}
    )
    async with run_dispatcher(tmp_path, injected) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.list_fault_kinds() == [kind]
    assert {work.ended for work in setup.read_result.values()} == {"completed"}
    assert not any(chunk.gap for work in setup.read_result.values() for chunk in work.done.values())
    down = [change.down_s for change in setup.changes if change.down_s is not None]
    assert len(down) == 1


# --- poison chunks


async def test_a_chunk_that_is_poison_on_the_gpu_is_done_by_the_cpu(tmp_path: Path) -> None:
    async with run_dispatcher(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=1, device="cuda", times=0)
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
        devices = [status.device for status in setup.pool.status()]
    assert len(setup.lost) == 2  # once with other tasks, once alone
    assert setup.read_result[JobId(2)].strikes[1] == 2
    assert not any(chunk.gap for work in setup.read_result.values() for chunk in work.done.values())
    assert devices == ["cuda:0", "cpu"]


@pytest.mark.parametrize(("on_poison", "ended"), [("gap", "completed"), ("fail", "poison")])
async def test_a_poison_chunk_ends_three_workers(
    tmp_path: Path, on_poison: str, ended: str
) -> None:
    poison = InjectedFault("abort", file="b.audio", chunk=1, times=0)
    async with run_dispatcher(tmp_path, poison, on_poison=on_poison) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert [lost.device for lost in setup.lost] == ["cuda:0", "cuda:0", "cpu"]
    assert [work.ended for work in setup.read_result.values()] == [
        "completed",
        ended,
        "completed",
        "completed",
    ]
    gaps = {
        (job, chunk.index)
        for job, work in setup.read_result.items()
        for chunk in work.done.values()
        if chunk.gap
    }
    assert gaps == ({(2, 1)} if on_poison == "gap" else set())


async def test_a_suspect_chunk_is_tried_alone(tmp_path: Path) -> None:
    async with run_dispatcher(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=1), chunk_s=0.01
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path, 8))
        await setup.wait_for_all_jobs()
    suspects = {
        (task.job_id, chunk.index) for task in setup.lost[0].tasks for chunk in task.suspects
    }
    assert (2, 1) in suspects
    assert len(suspects) > 1
    in_flight: set[tuple[int, int]] = set()
    for report in setup.reports[setup.lost_at :]:
        match report:
            case ChunkStarted(job_id, _, index):
                in_flight.add((job_id, index))
                assert len(in_flight) == 1 or not in_flight & suspects
            case ChunkDone(job_id, _, chunk):
                in_flight.discard((job_id, chunk.index))
            case _:
                pass


async def test_a_file_that_crashes_its_reader_is_identified(tmp_path: Path) -> None:
    killer = InjectedFault("abort", at="open", file="c.audio", times=2)
    async with run_dispatcher(tmp_path, killer) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.read_result[JobId(3)].crashes == 2
    assert all(work.crashes <= 1 for job, work in setup.read_result.items() if job != 3)
    assert not any(task.suspects for lost in setup.lost for task in lost.tasks)


async def test_a_bad_file_ends_no_worker(tmp_path: Path) -> None:
    bad = InjectedFault("refuse", at="open", file="b.audio", text="a picture")
    async with run_dispatcher(tmp_path, bad) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
    assert [work.ended for work in setup.read_result.values()] == [
        "completed",
        "not_media",
        "completed",
        "completed",
    ]
    assert not setup.lost


# --- devices


async def test_faults_on_several_files_open_the_circuit_breaker(
    tmp_path: Path,
) -> None:
    sick = [InjectedFault("fault", text=ILLEGAL, file=f"{name}.audio", chunk=0) for name in "abc"]
    answers = ["the driver sleeps", ""]
    async with run_dispatcher(
        tmp_path, *sick, batch=1, probe=lambda _device: answers.pop(0)
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    states = [change.state for change in setup.changes]
    opened = states.index(DeviceState.DEVICE_OPEN)
    assert states.index(DeviceState.HALF_OPEN) > opened
    assert states.index(DeviceState.BUSY, opened) > states.index(DeviceState.HALF_OPEN)
    assert len(setup.lost) == 3
    assert answers == []


async def test_a_missing_library_is_reported_until_it_is_installed(tmp_path: Path) -> None:
    """No job fails, no worker restarts in a loop, and the fix is noticed."""
    text = "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"
    missing = InjectedFault("fault", at="load", phase="load", text=text)
    repaired = asyncio.Event()
    async with run_dispatcher(
        tmp_path, missing, probe=lambda _device: "" if repaired.is_set() else text
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(lambda: setup.pool.blocked_reason is not None, "the pause")
        assert "speakeasyd[gpu]" in (setup.pool.blocked_reason or "")
        assert setup.pool.capacity("auto") == 0
        repaired.set()
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.list_fault_kinds() == [FaultKind.CONFIGURATION]
    assert not any(work.strikes or work.crashes for work in setup.read_result.values())


@pytest.mark.parametrize("action", ["abort", "segfault"])
async def test_workers_that_die_before_any_work_need_a_person(
    tmp_path: Path, action: FaultAction
) -> None:
    async with run_dispatcher(
        tmp_path, InjectedFault(action, at="load", times=0), device="cpu"
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(lambda: setup.pool.fatal_diagnosis is not None, "the need of a person")
        assert setup.pool.fatal_diagnosis
        assert "GPU" not in setup.pool.fatal_diagnosis.what
    assert not any(work.strikes or work.crashes for work in setup.read_result.values())


async def test_a_defect_in_loading_is_not_retried_forever(tmp_path: Path) -> None:
    text = "TypeError: open() got an unexpected keyword argument"
    async with run_dispatcher(
        tmp_path, InjectedFault("fault", at="load", phase="canary", text=text, times=0)
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(lambda: setup.pool.fatal_diagnosis is not None, "the end of retries")
        assert "install speakeasyd again" in (setup.pool.blocked_reason or "")
    assert setup.list_fault_kinds() == [FaultKind.DEFECT] * POLICY.faults_to_open


async def test_a_defect_with_some_files_stops_no_others(tmp_path: Path) -> None:
    text = "AttributeError: 'NoneType' object has no attribute 'layout'"
    odd = [InjectedFault("fault", file=f"{name}.audio", text=text, times=0) for name in "abc"]
    policy = replace(POLICY, restart_max_s=0.1, probe_max_s=0.1)
    async with run_dispatcher(tmp_path, *odd, device="cpu", policy=policy) as setup:
        await setup.add_jobs(*create_files(tmp_path, count=6))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    gaps = [any(chunk.gap for chunk in work.done.values()) for work in setup.read_result.values()]
    assert gaps == [True] * 3 + [False] * 3


async def test_a_bad_model_blames_neither_device_nor_job(tmp_path: Path) -> None:
    text = "ModelUnavailable: no model 'tiny.xx'"
    async with run_dispatcher(
        tmp_path, InjectedFault("fault", at="load", phase="load", text=text, times=2)
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
    assert setup.list_fault_kinds() == [FaultKind.CONFIGURATION] * 2
    assert DeviceState.DEVICE_OPEN not in {change.state for change in setup.changes}
    assert not any(work.strikes or work.crashes for work in setup.read_result.values())


async def test_the_cpu_replaces_a_device_if_allowed(tmp_path: Path) -> None:
    text = "RuntimeError: CUDA failed with error unknown error"
    policy = replace(POLICY, cpu_stand_in=True)
    asleep = InjectedFault("fault", at="load", phase="load", device="cuda", text=text, times=0)
    async with run_dispatcher(tmp_path, asleep, policy=policy, probe=lambda _device: text) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
        assert next((status.device, status.state) for status in setup.pool.status()) == (
            "cuda:0",
            DeviceState.CPU_ONLY,
        )
    assert {report.device for report in setup.reports if isinstance(report, Loaded)} == {"cpu"}


async def test_an_engine_that_cannot_be_imported_needs_a_person(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, target="speakeasyd.no_such_module:serve") as setup:
        await wait_until(lambda: setup.pool.blocked_reason is not None, "the pause")
    assert "ModuleNotFoundError" in setup.lost[0].error
    assert "no_such_module" in setup.lost[0].last_words


async def test_work_goes_to_the_working_device(tmp_path: Path) -> None:
    text = "RuntimeError: CUDA failed with error unknown error"
    asleep = InjectedFault("fault", at="load", phase="load", text=text)
    async with run_dispatcher(
        tmp_path, asleep, device="cuda:0 cuda:1", probe=lambda _device: text
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path, 12))
        await setup.wait_for_all_jobs()
        setup.check_texts()
        assert setup.pool.blocked_reason is None
        states = [status.state for status in setup.pool.status()]
    assert len(setup.lost) == 1
    assert DeviceState.DEVICE_OPEN in states
    assert len({DeviceState.READY, DeviceState.BUSY} & set(states)) == 1


async def test_many_faults_at_the_same_time(tmp_path: Path) -> None:
    """Each file gets its text, and the one chunk that nothing can process is marked as a gap."""
    single: list[FaultAction] = [
        "abort",
        "segfault",
        "exit",
        "hang",
        "stop",
        "garbage",
        "deliver_and_abort",
        "soft_fault",
    ]
    faults = [
        InjectedFault(action, file=f"{name}.audio", chunk=1)
        for action, name in zip(single, "abcdefgh", strict=True)
    ]
    faults += [
        InjectedFault("fault", text=ILLEGAL, file="i.audio", chunk=2),
        InjectedFault("abort", file="j.audio", chunk=0, times=0),
        InjectedFault("abort", at="open", file="k.audio"),
        InjectedFault(
            "fault", at="load", phase="canary", text="CanaryFailed: la la la", after="segfault"
        ),
    ]
    async with run_dispatcher(tmp_path, *faults) as setup:
        await setup.add_jobs(*create_files(tmp_path, 12))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert {work.ended for work in setup.read_result.values()} == {"completed"}
    gaps = {
        (job, chunk.index)
        for job, work in setup.read_result.items()
        for chunk in work.done.values()
        if chunk.gap
    }
    assert gaps == {(10, 0)}
    assert len(setup.lost) <= 24


# --- soft restarts, hangs, recycling

FULL = "RuntimeError: CUDA failed with error out of memory"


async def test_a_soft_restart_keeps_the_worker_and_its_tasks(tmp_path: Path) -> None:
    async with run_dispatcher(
        tmp_path, InjectedFault("soft_fault", text=FULL, file="b.audio", chunk=1)
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert not setup.lost
    assert DeviceState.SOFT_RESTARTING in {change.state for change in setup.changes}
    assert len([report for report in setup.reports if isinstance(report, Hello)]) == 1


async def test_a_soft_restart_that_fails_becomes_a_hard_one(tmp_path: Path) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="b.audio", chunk=1)
    again = InjectedFault(
        "fault", at="load", phase="canary", text="CanaryFailed: 'la la la'", after="soft_fault"
    )
    async with run_dispatcher(tmp_path, soft, again) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.list_fault_kinds() == [FaultKind.CONTEXT_LOST]


async def test_a_worker_that_restarts_softly_forever_is_ended(tmp_path: Path) -> None:
    """Its fault is reported, not the kill, even if it has loaded just before its end."""
    soft = InjectedFault(
        "soft_fault", at="load", phase="load", text=FULL, times=POLICY.soft_limit + 2
    )
    async with run_dispatcher(tmp_path, soft, load_s=0.05, chunk_s=0.2) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.list_fault_kinds() == [FaultKind.OUT_OF_MEMORY]
    assert len([report for report in setup.reports if isinstance(report, Hello)]) == 2


async def test_a_new_worker_starts_with_the_reduced_settings(
    tmp_path: Path,
) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="a.audio", chunk=0)
    abort = InjectedFault("abort", file="a.audio", chunk=2, after="soft_fault")
    # Tasks arrive while it loads, or at least while the first chunks are computed
    async with run_dispatcher(tmp_path, soft, abort, batch=4, load_s=2.0, chunk_s=0.2) as setup:
        await setup.add_jobs(*create_files(tmp_path, 8))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert (
        count_most_in_flight(setup.reports[: setup.lost_at]) == 4
    )  # the scripted engine has no smaller settings
    assert count_most_in_flight(setup.reports[setup.lost_at :]) == 2


async def test_recycling_restores_the_configured_settings(tmp_path: Path) -> None:
    soft = InjectedFault("soft_fault", text=FULL, file="a.audio", chunk=0)
    async with run_dispatcher(tmp_path, soft, batch=4, recycle_hours=100 / 3600) as setup:
        await setup.add_jobs(*create_files(tmp_path, 52))
        await setup.wait_for_all_jobs()
    starts = [number for number, report in enumerate(setup.reports) if isinstance(report, Hello)]
    assert count_most_in_flight(setup.reports[starts[1] :]) == 4


def count_most_in_flight(reports: Iterable[Report]) -> int:
    now = most = 0
    for report in reports:
        now += isinstance(report, ChunkStarted)
        now -= isinstance(report, ChunkDone)
        most = max(most, now)
    return most


async def test_a_worker_that_hangs_in_loading_is_replaced(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, InjectedFault("hang", at="load")) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert setup.list_fault_kinds() == [FaultKind.HANG]


async def test_a_worker_that_cannot_be_killed_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang in a driver; its tasks must not wait for it."""
    monkeypatch.setattr(supervisor, "EXIT_S", 0.3)
    with monkeypatch.context() as immortal:
        immortal.setattr(WorkerProcess, "kill", lambda _process: None)
        async with run_dispatcher(
            tmp_path, InjectedFault("stop", file="b.audio", chunk=1)
        ) as setup:
            await setup.add_jobs(*create_files(tmp_path))
            await wait_until(lambda: setup.pool.status()[0].tasks, "a chunk in flight")
            stuck = psutil.Process(setup.pool.status()[0].pid)
            await setup.wait_for_all_jobs()
            setup.check_texts()
            assert stuck.is_running()
            immortal.undo()
            stuck.kill()
            await wait_until(lambda: not stuck.is_running(), "the end of the worker")
    assert setup.list_fault_kinds() == [FaultKind.HANG]


async def test_a_worker_is_recycled_between_files(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, recycle_hours=100 / 3600) as setup:
        await setup.add_jobs(*create_files(tmp_path, 48))
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert not setup.lost
    assert len([report for report in setup.reports if isinstance(report, Hello)]) > 1


async def test_an_idle_worker_is_ended_and_another_started_for_the_next_task(
    tmp_path: Path,
) -> None:
    async with run_dispatcher(tmp_path, idle_unload_s=0.1) as setup:
        await setup.add_jobs(*create_files(tmp_path, 1))
        await setup.wait_for_all_jobs()
        await wait_until(lambda: setup.pool.status()[0].pid is None, "the end of the worker")
        assert setup.pool.status()[0].state is DeviceState.UNLOADED
        await setup.add_jobs(create_files(tmp_path, 2)[1])
        await setup.wait_for_all_jobs()
    assert len([report for report in setup.reports if isinstance(report, Loaded)]) == 2


async def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, chunk_s=0.05) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(
            lambda: any(isinstance(report, ChunkDone) for report in setup.reports), "a chunk"
        )
        psutil.Process(setup.pool.status()[0].pid).kill()
        await setup.wait_for_all_jobs()
        setup.check_texts()
    assert len(setup.lost) == 1


async def test_a_dropped_job_is_forgotten(tmp_path: Path) -> None:
    async with run_dispatcher(
        tmp_path, InjectedFault("abort", file="b.audio", chunk=2), chunk_s=0.5, batch=1
    ) as setup:
        await setup.add_jobs(*create_files(tmp_path, 2, chunks=4))
        await wait_until(
            lambda: any(isinstance(report, ChunkStarted) for report in setup.reports),
            "a chunk in flight",
        )
        setup.pool.drop_job(JobId(1))
        await setup.ledger.cancel_jobs([1])
        await setup.wait_for_all_jobs()
    assert not any(isinstance(report, TaskDone) and report.job_id == 1 for report in setup.reports)
    assert {task.job_id for lost in setup.lost for task in lost.tasks} == {2}


# --- stopping


async def test_stopping_finishes_the_chunks_in_flight(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, chunk_s=0.1) as setup:
        await setup.add_jobs(*create_files(tmp_path, chunks=50))
        await wait_until(lambda: len(setup.reports) > 20, "a chunk in flight")
        await setup.pool.stop(PATIENCE_S)
    assert list_started_chunks(setup.reports) == {
        (r.job_id, r.chunk.index) for r in setup.reports if isinstance(r, ChunkDone)
    }
    assert isinstance(setup.reports[-1], Drained)
    assert not setup.lost


@pytest.mark.parametrize("action", ["hang", "stop"])
async def test_a_hung_worker_does_not_delay_the_stop(tmp_path: Path, action: str) -> None:
    async with run_dispatcher(tmp_path, InjectedFault(action, file="b.audio", chunk=1)) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(lambda: (2, 1) in list_started_chunks(setup.reports), "the chunk")
        await asyncio.wait_for(setup.pool.stop(0.3), PATIENCE_S)  # the worker would never exit
    assert not setup.lost


async def test_a_second_signal_ends_workers_immediately(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path, chunk_s=3600.0) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await wait_until(
            lambda: any(isinstance(report, ChunkStarted) for report in setup.reports),
            "a chunk in flight",
        )
        stopping = asyncio.create_task(setup.pool.stop(3600.0))
        await asyncio.sleep(0)
        setup.pool.kill()
        await asyncio.wait_for(stopping, PATIENCE_S)


PARENT_PROGRAM = """
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
def test_a_killed_daemon_leaves_no_stopped_worker(tmp_path: Path) -> None:
    FaultScript((InjectedFault("stop"),)).write_to(tmp_path)
    assert_no_orphan(tmp_path)


def test_a_killed_daemon_leaves_no_worker(tmp_path: Path) -> None:
    FaultScript(chunk_s=0.2).write_to(tmp_path)
    assert_no_orphan(tmp_path)


def assert_no_orphan(tmp_path: Path) -> None:
    create_files(tmp_path, 1, chunks=1000)
    (tmp_path / "parent.py").write_text(PARENT_PROGRAM)
    command = [sys.executable, tmp_path / "parent.py", tmp_path]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.kill()
    worker.wait(PATIENCE_S)


# --- the process


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
async def test_a_full_pipe_to_a_stopped_worker_blocks_nothing(tmp_path: Path) -> None:
    async with run_dispatcher(tmp_path) as setup:
        await wait_until(lambda: setup.pool.capacity("auto") > 0, "a worker")
        psutil.Process(setup.pool.status()[0].pid).suspend()
        large = frozenset(range(200_000))  # far more than the buffer of a pipe
        for number in range(5):
            setup.pool.submit_task(
                Task(JobId(number), Token(""), SourceRef(INBOX, b""), Options(), None, skip=large)
            )
        await setup.pool.stop(0.1)  # a blocking write would never have returned


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends CTRL_C to a console, not to a process"
)
@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
async def test_workers_ignore_requests_to_stop(
    tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    async with run_dispatcher(tmp_path) as setup:
        await wait_until(lambda: setup.pool.capacity("auto") > 0, "a worker")
        os.kill(setup.pool.status()[0].pid or 0, request_to_stop)
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
    assert not setup.lost


async def test_debug_mode_gives_no_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = PATIENCE_S  # slow callbacks depend on the machine
    async with run_dispatcher(tmp_path, InjectedFault("abort", file="b.audio", chunk=1)) as setup:
        await setup.add_jobs(*create_files(tmp_path))
        await setup.wait_for_all_jobs()
    assert not [
        record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}
    ]
