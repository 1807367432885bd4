"""Intake, ledger, dispatcher and publisher under any order of files, events, faults, kills and people's wishes.

The clock is turned by hand and the pool is a stand-in that says one thing at a time; all else is real. Whatever
happened, once there is peace every file that is there has its transcript, once, and with its own text.
"""

import asyncio
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from speakeasyd.config import InboxSettings, RecoverySettings, Settings, WatchSettings
from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Phase, classify_fault
from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    LanguageFound,
    Loaded,
    Opened,
    Report,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.worker_pool import PoolEvent, WorkerLost, WorkerReport
from speakeasyd.errors import ErrorCode
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import release_stale_claims
from speakeasyd.loop import MainLoop
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.intake import Intake
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.testing import CHUNK_S, PIECE, ManualClock, build_scripted_chunks
from speakeasyd.workers.assigned_tasks import AssignedTasks
from tests.ledgers import create_ledger

NAMES = ("a.wav", "b.wav", "sub/a.wav", "c.flac")
CONTENTS = tuple(
    bytes([letter]) * (PIECE * chunks) for letter, chunks in zip(b"xyz", (1, 2, 3), strict=True)
)
SETTLE_S = 2.0
FINAL_ROUNDS = 400  # rounds after which nothing may remain to do
FAULTS = (
    classify_fault(
        phase=Phase.GENERATE,
        error="CUDA failed with error an illegal memory access was encountered",
    ),
    classify_fault(exit_status=-9),
    classify_fault(phase=Phase.DECODE, error="MemoryError: "),
    classify_fault(silent=True),
)


class ManualPool:
    """A pool with one worker that sends its next report about a task only in `send_report`."""

    device = "cpu"
    blocked_reason = None

    def __init__(self, inbox: Path, hear: Callable[[PoolEvent], None]) -> None:
        self._inbox = inbox
        self._hear = hear
        self._hand = AssignedTasks()
        self._plays: dict[JobId, Iterator[Report]] = {}
        hear(WorkerReport("cpu", Loaded("auto", "scripted", "cpu", "int8", 0.0)))

    def capacity(self, _model: str, *, urgent: bool = False) -> int:
        return max(0, 3 - len(self._plays))

    def submit_task(
        self, task: Task, *, alone: bool = False, on_cpu: bool = False, urgent: bool = False
    ) -> None:
        self._hand.add_task(task, alone=alone or on_cpu)
        self._plays[task.job_id] = list_reports(task, self._inbox)

    def drop_job(self, job_id: JobId) -> None:
        self._hand.drop_job(job_id)
        self._plays.pop(job_id, None)

    async def stop(self, _grace_s: float) -> None:
        self._plays.clear()

    def send_report(self, which: int) -> bool:
        """Send the next report about a task. Returns False if there is none."""
        if not self._plays:
            return False
        job_id = list(self._plays)[which % len(self._plays)]
        report = next(self._plays[job_id])
        if isinstance(report, TaskDone | TaskFailed):
            del self._plays[job_id]
        self._hand.record_report(report, 0.0)
        self._hear(WorkerReport("cpu", report))
        return True

    def kill_worker(self, fault: int) -> None:
        diagnosis = FAULTS[fault % len(FAULTS)]
        tasks = self._hand.take_all(None, blame=diagnosis.blames_work)
        self._plays.clear()
        self._hear(
            WorkerLost(
                "cpu",
                "cpu",
                tasks,
                diagnosis,
                Phase.GENERATE,
                diagnosis.what,
                -6,
                "",
                1.0,
                DeviceState.STARTING,
            )
        )


def list_reports(task: Task, inbox: Path) -> Iterator[Report]:
    try:
        data = (inbox / os.fsdecode(task.source.path)).read_bytes()
    except OSError as error:
        yield TaskFailed(task.job_id, task.token, ErrorCode.SOURCE_MISSING, str(error))
        return
    chunks = build_scripted_chunks(data)
    yield Opened(task.job_id, task.token, len(chunks) * CHUNK_S)
    yield LanguageFound(task.job_id, task.token, "en", 1.0)
    for chunk in chunks:
        if chunk.index not in task.skip and (task.only is None or chunk.index in task.only):
            yield ChunkStarted(task.job_id, task.token, chunk.index, chunk.start, chunk.end)
            yield ChunkDone(task.job_id, task.token, chunk)
    yield TaskDone(task.job_id, task.token, len(chunks) * CHUNK_S)


class DaemonMachine(RuleBasedStateMachine):
    """Rules and invariants. `present`: the bytes of the files in the inbox, by path."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.clock = ManualClock()
        self.present: dict[str, bytes] = {}
        self.boots = 0
        inbox = InboxSettings(path=self.root / "inbox", outbox=self.root / "outbox")
        self.settings = Settings(
            state=self.root,
            inboxes=(inbox,),
            watch=WatchSettings(settle_s=SETTLE_S, poll="always", poll_s=0.5),
            recovery=RecoverySettings(
                max_attempts=1000, stop_grace_s=1.0
            ),  # the faults are injected, so none counts
        )
        (self.root / "inbox").mkdir()
        create_ledger(self.root / "ledger.db")

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    @initialize()
    def start_daemon(self) -> None:
        self.run(self._start_daemon())

    async def _start_daemon(self) -> None:
        self.boots += 1
        hub = EventHub()
        self.ledger = await Ledger.open(
            self.root / "ledger.db", clock=self.clock, hub=hub, boot_id=str(self.boots)
        )
        await self.ledger.write(release_stale_claims)
        pauses = Pauses(ledger=self.ledger, hub=hub, clock=self.clock)
        self.outboxes = Outboxes(inboxes=self.settings.inboxes, pauses=pauses)
        sources = SourceDisposal(
            ledger=self.ledger, settings=self.settings, hub=hub, clock=self.clock
        )
        heard: list[PoolEvent] = []
        self.pool = ManualPool(self.root / "inbox", heard.append)
        self.dispatcher = Dispatcher(
            ledger=self.ledger,
            pool=self.pool,  # type: ignore[arg-type] # a stand-in
            publisher=Publisher(ledger=self.ledger, outboxes=self.outboxes, sources=sources),
            outboxes=self.outboxes,
            pauses=pauses,
            incidents=Incidents(ledger=self.ledger),
            settings=self.settings,
            clock=self.clock,
        )
        for news in heard:
            self.dispatcher.enqueue_event(news)
        self.pool._hear = self.dispatcher.enqueue_event
        self.intake = Intake(
            settings=self.settings,
            ledger=self.ledger,
            pauses=pauses,
            main_loop=MainLoop(asyncio.get_running_loop()),
            clock=self.clock,
        )
        await self.outboxes.prepare_folders()

    # --- files and their events

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS))
    def drop(self, name: str, content: bytes) -> None:
        """Write a new file, or replace another that does not wait."""
        if self._read_status(name) not in {"pending", "processing"}:
            part = self.root / "part"
            part.write_bytes(content)
            target = self.root / "inbox" / name
            target.parent.mkdir(exist_ok=True)
            part.replace(target)
            self.present[name] = content

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        (self.root / "inbox" / name).unlink(missing_ok=True)
        self.present.pop(name, None)

    @rule(name=st.sampled_from(NAMES), times=st.integers(1, 3), hint=st.booleans())
    def event(self, name: str, times: int, hint: bool) -> None:
        """Report an event: late, repeated, about a missing file, or never."""
        for _ in range(times):
            now = self.clock.monotonic()
            next(iter(self.intake._pipelines.values()))._arrivals.notice_file(
                name.encode(), now, announced=True, hint=hint
            )

    # --- time and work

    @rule(seconds=st.sampled_from([0.1, 1.0, SETTLE_S, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.run(self._run_intake())

    async def _run_intake(self) -> None:
        await self.intake.run_once()
        while any(pipeline.admission._workers for pipeline in self.intake._pipelines.values()):
            await self.intake.run_once()

    @rule()
    def dispatch(self) -> None:
        self.run(self.dispatcher.run_once())

    @rule(which=st.integers(0, 5), words=st.integers(1, 6))
    def work(self, which: int, words: int) -> None:
        for _ in range(words):
            self.pool.send_report(which)

    # --- faults

    @rule(fault=st.integers(0, len(FAULTS) - 1))
    def kill_worker(self, fault: int) -> None:
        self.pool.kill_worker(fault)

    @rule()
    def kill_daemon(self) -> None:
        """Lose everything in memory."""
        self.run(self._close_daemon())
        self.run(self._start_daemon())

    async def _close_daemon(self) -> None:
        publishing = list(self.dispatcher._publications._running.values())
        for task in publishing:
            task.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)
        await self.intake.stop()
        await self.ledger.close()

    @precondition(lambda self: (self.root / "outbox").is_dir())
    @rule()
    def remove_outbox(self) -> None:
        (self.root / "outbox").rename(self.root / "outbox away")

    @precondition(lambda self: (self.root / "outbox away").is_dir())
    @rule()
    def restore_outbox(self) -> None:
        (self.root / "outbox away").rename(self.root / "outbox")

    @rule(name=st.sampled_from(NAMES), retry=st.booleans())
    def change_job(self, name: str, retry: bool) -> None:
        ids = [
            row["job_id"]
            for row in self._query_rows("SELECT job_id FROM job_status WHERE path = ?", name)
        ]
        if retry:
            self.run(self.ledger.retry_jobs(ids))
        elif name not in self.present:  # a cancelled job is no lost file
            self.run(self.ledger.cancel_jobs(ids))

    # --- invariants

    @invariant()
    def check_one_live_job_for_each_path(self) -> None:
        if self.boots:
            live = (
                "SELECT path, count(*) AS n FROM job_status WHERE finished_at IS NULL GROUP BY path"
            )
            assert all(row["n"] == 1 for row in self._query_rows(live))

    @invariant()
    def check_written_artifacts_exist(self) -> None:
        outbox = next(
            folder
            for folder in (self.root / "outbox", self.root / "outbox away")
            if folder.is_dir()
        )
        for row in self._query_rows(
            "SELECT path, sha256 FROM artifacts WHERE written_at IS NOT NULL"
        ):
            assert hashlib.sha256((outbox / row["path"]).read_bytes()).hexdigest() == row["sha256"]

    def teardown(self) -> None:
        try:
            if self.boots:
                self._end_all_faults()
                self._check_results()
                self.run(self._close_daemon())
        finally:
            self._runner.close()
            self._folder.cleanup()

    def _end_all_faults(self) -> None:
        if (self.root / "outbox away").is_dir():
            self.restore_outbox()
        for _ in range(FINAL_ROUNDS):
            self.clock.advance(SETTLE_S)
            self.run(self._run_round())
            while self.pool.send_report(0):
                pass
            if self._is_idle():
                return
        unfinished = [
            tuple(row)
            for row in self._query_rows("SELECT path, status FROM jobs WHERE finished_at IS NULL")
        ]
        raise AssertionError(f"no peace: {unfinished}")

    async def _run_round(self) -> None:
        await self._run_intake()
        await self.outboxes.run_once()
        await self.dispatcher.run_once()
        await self.dispatcher._publications.wait_all(6.0)

    def _is_idle(self) -> bool:
        open_jobs = self._query_rows("SELECT 1 FROM jobs WHERE finished_at IS NULL")
        known = all(self._read_status(name) for name in self.present)
        return known and self.intake.idle and self.dispatcher.idle and not open_jobs

    def _check_results(self) -> None:
        latest = "SELECT job_id, status, sha256 FROM job_status WHERE path = ? AND status != 'skipped' ORDER BY job_id"
        for name, content in self.present.items():
            *_, job = self._query_rows(latest, name)
            assert (job["status"], job["sha256"]) == (
                "completed",
                hashlib.sha256(content).hexdigest(),
            ), name
            text = "".join(
                segment.text
                for chunk in build_scripted_chunks(content)
                for segment in chunk.segments
            )
            [row] = self._query_rows(
                "SELECT text FROM transcript_text WHERE job_id = ?", job["job_id"]
            )
            assert row["text"] == text.strip(), name
        written = {
            path.relative_to(self.root / "outbox").as_posix()
            for path in (self.root / "outbox").rglob("*.*")
        }
        assert written == {row["path"] for row in self._query_rows("SELECT path FROM artifacts")}

    def _read_status(self, name: str) -> str | None:
        rows = self._query_rows(
            "SELECT status FROM job_status WHERE path = ? ORDER BY job_id DESC LIMIT 1", name
        )
        return rows[0]["status"] if rows else None

    def _query_rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(self.root / "ledger.db")) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, values).fetchall()


DaemonMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=25)
TestDaemonMachine = DaemonMachine.TestCase
