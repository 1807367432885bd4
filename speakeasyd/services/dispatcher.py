"""The dispatcher: runs the round of claiming jobs and storing the pool's reports."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from speakeasyd.clock import Clock, JumpDetector, find_next_check
from speakeasyd.config import Settings
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.pausing import LEDGER_PAUSE
from speakeasyd.domain.worker_pool import PoolEvent, RoomAvailable, WorkerPool
from speakeasyd.errors import LedgerUnwritable
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import shift_waits
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.job_starter import JobStarter
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publications import Publications
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.report_handler import ReportHandler
from speakeasyd.services.service import Service
from speakeasyd.services.source_faults import SourceFaults

log = logging.getLogger(__name__)

# seconds between checks for changes by other programs in the ledger, with and without claimed jobs
TICK_S = 1.0
IDLE_TICK_S = 2.0
# seconds between checks of the queue without a wake-up: a retry may have become due
CHECK_QUEUE_S = 4.0
# seconds for each claimed job in which reports are collected for one transaction, and at most
GATHER_S = 0.02
GATHER_MOST_S = 0.25
EARLY_S = 0.02  # seconds by which a timer of asyncio may be early, on Windows
AT_ONCE = 0.0  # time of a check of the queue that is due at once
RETRY_S = 5.0  # seconds between rounds while the ledger cannot be written


class Dispatcher(Service):
    """Wires the parts that work with the claims of this daemon, and runs their rounds.

    `HeldClaims` tracks them, `JobStarter` claims and submits jobs, `ReportHandler` stores the
    pool's reports, `SourceFaults` decides about faulty files, `Publications` publishes.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: WorkerPool,
        publisher: Publisher,
        outboxes: Outboxes,
        pauses: Pauses,
        incidents: Incidents,
        settings: Settings,
        clock: Clock,
        wait_for_fixes: bool = True,
    ) -> None:
        """Create the dispatcher.

        `wait_for_fixes`: jobs whose model cannot be loaded wait until a person fixes it; else they
        fail.
        """
        super().__init__()
        self._ledger = ledger
        self._pool = pool
        self._outboxes = outboxes
        self._pauses = pauses
        self._grace_s = settings.recovery.stop_grace_s
        self._clock = clock
        self._jumps = JumpDetector(clock)
        self._ledger_checked_at = 0.0  # monotonic seconds of the last check for foreign changes
        self._check_queue_at = AT_ONCE  # monotonic seconds of the next check of the queue
        self._last_claim_ended = asyncio.Event()
        self._claims = HeldClaims(
            ledger=ledger,
            publisher=publisher,
            backoff=settings.recovery,
            clock=clock,
            on_end=self._on_claim_end,
        )
        source_faults = SourceFaults(
            claims=self._claims,
            roots={inbox.name: inbox.path for inbox in settings.inboxes},
            incomplete_max_s=settings.watch.incomplete_max_s,
            clock=clock,
            wait_for_fixes=wait_for_fixes,
        )
        self._publications = Publications(
            claims=self._claims,
            publisher=publisher,
            outboxes=outboxes,
            pauses=pauses,
            source_faults=source_faults,
        )
        self._reports = ReportHandler(
            ledger=ledger,
            claims=self._claims,
            publications=self._publications,
            source_faults=source_faults,
            incidents=incidents,
            settings=settings.recovery,
            clock=clock,
            wait_for_fixes=wait_for_fixes,
        )
        self._starter = JobStarter(
            ledger=ledger,
            pool=pool,
            claims=self._claims,
            publications=self._publications,
            outboxes=outboxes,
            pauses=pauses,
            settings=settings,
        )

    @property
    def idle(self) -> bool:
        return not self._claims and self._reports.idle

    @property
    def computing(self) -> bool:
        """Return whether there is work that is not blocked by a paused outbox."""
        jobs = self._claims.list_jobs()
        waiting = [job for job in jobs if job.token in self._publications]
        blocked = [job for job in waiting if self._outboxes.is_paused(job.inbox)]
        return not self._reports.idle or len(blocked) < len(jobs)

    async def wait_for_last_claim(self, limit_s: float) -> None:
        """Wait until the last claim has ended, for `limit_s` seconds at most."""
        self._last_claim_ended.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._last_claim_ended.wait()

    def enqueue_event(self, event: PoolEvent) -> None:
        """Queue an event of the pool. Call it on the loop."""
        if isinstance(event, RoomAvailable):
            self._check_queue_at = AT_ONCE
        else:
            self._reports.enqueue_event(event)
        super().wake()

    def wake(self) -> None:
        """Run the next round now, and check the queue in it."""
        self._check_queue_at = AT_ONCE
        super().wake()

    async def run_once(self) -> float:
        if self._check_queue_at == AT_ONCE or not self._reports.idle:  # more may follow
            await asyncio.sleep(min(GATHER_S * max(1, len(self._claims)), GATHER_MOST_S))
        try:
            await self._reports.process_events()
            if self._is_due(find_next_check(self._ledger_checked_at, self._tick_s)):
                self._ledger_checked_at = self._clock.monotonic()
                await self._notice_foreign_changes()
            if self._is_due(self._check_queue_at):
                self._check_queue_at = find_next_check(self._clock.monotonic(), CHECK_QUEUE_S)
                await self._starter.claim_jobs()
        except LedgerUnwritable as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return RETRY_S
        await self._pauses.end_pause(LEDGER_PAUSE)
        return self._tick_s

    def _is_due(self, moment: float) -> bool:
        return self._clock.monotonic() + EARLY_S >= moment

    @property
    def _tick_s(self) -> float:
        return TICK_S if self._claims else IDLE_TICK_S

    async def stop(self) -> None:
        """Stop: finish and store the chunks in progress, then release the other claims.

        If the ledger cannot be written, the next daemon releases them, and computes again what was not
        stored.
        """
        await super().stop()
        self._publications.stop_retrying()
        await self._pool.stop(self._grace_s)
        with _ignore_unwritable_ledger("what was computed last is not stored"):
            await self._reports.process_events()
        await self._publications.stop(self._grace_s)
        with _ignore_unwritable_ledger("jobs are still claimed"):
            for job in self._claims.list_jobs():
                await self._claims.release_claim(job)

    def abandon_claim(self, job_id: JobId, token: Token) -> None:
        """Stop the work for a claim that the watchdog has ended in the ledger."""
        self._publications.cancel(token)
        if job := self._claims.find_job(job_id, token):
            self._claims.forget_claim(job)

    def _on_claim_end(self, job_id: JobId) -> None:
        self._pool.drop_job(job_id)
        if not self._claims:
            self._last_claim_ended.set()
        self.wake()

    async def _notice_foreign_changes(self) -> None:
        if await self._ledger.detect_foreign_commit():
            self._check_queue_at = AT_ONCE
            await self._claims.drop_lost_claims()
        await self._shift_waits()

    async def _shift_waits(self) -> None:
        """Shift the stored waits when the wall clock is set, so that they keep their length."""
        if jump := self._jumps.measure():
            log.warning("the clock was set by %+.0f s; stored waits are shifted", jump)
            await self._ledger.write(shift_waits, jump)
            self._jumps.accept(jump)
            self._check_queue_at = AT_ONCE


@contextmanager
def _ignore_unwritable_ledger(consequence: str) -> Iterator[None]:
    try:
        yield
    except LedgerUnwritable as error:
        log.warning("%s; the next start corrects that: %s", consequence, error)
