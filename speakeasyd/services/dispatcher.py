"""The dispatcher: claims jobs, submits them to the worker pool, and stores the pool's reports."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

from speakeasyd.clock import Clock, JumpDetector, format_utc
from speakeasyd.config import Settings
from speakeasyd.domain.fault import Remedy
from speakeasyd.domain.job import Job, JobId, Token
from speakeasyd.domain.pausing import DEVICE_PAUSE, LEDGER_PAUSE, PauseCause, PauseKind
from speakeasyd.domain.protocol import (
    ChunkDone,
    LanguageFound,
    Loaded,
    Opened,
    Report,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.recovery import PoisonDecision, decide_poison
from speakeasyd.domain.retry import HOLD_S, compute_backoff
from speakeasyd.domain.transcript import Chunk, MediaWarning, WarningKind
from speakeasyd.errors import (
    ClaimLost,
    ErrorCode,
    FileFault,
    LedgerError,
    LedgerUnwritable,
    OutboxUnavailable,
)
from speakeasyd.inbox import file_identity
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup
from speakeasyd.workers.pool import DeviceChange, LostTask, Pool, WorkerLost

log = logging.getLogger(__name__)

TICK_S = 1.0  # seconds between checks for changes by other programs in the ledger
CHECK_QUEUE_S = (
    3.0  # seconds between checks of the queue without a wake-up: a retry may have become due
)
GATHER_S = 0.02  # seconds in which reports are collected for one transaction
RETRY_S = 5.0  # seconds between retries while a disk is full or a folder is missing
REFUSAL_TRIES = 5  # attempts to write into a folder that refuses while the outbox accepts files
RECHECK_MISSING_S = 10.0  # seconds after which a missing source is looked for again
MISSING_WINDOW_S = 60.0  # seconds within which a source must be missing twice for its job to fail
LINK_TRIES = 20  # most attempts to open a source in whose place a link was found
LINK_TRIES_ONCE = 4  # the same when the daemon waits for nobody
LINK_WAIT_S = 120.0  # most seconds between two such attempts
ANSWER_S = 60.0  # seconds for a source's folder to answer
# seconds until a file that has grown is checked again; by then the intake has replaced its job
RECHECK_GROWING_S = 10.0

# a worker's name and its report, the end of a worker, a change of a device
PoolEvent = tuple[str, Report] | WorkerLost | DeviceChange

_POSSIBLY_INCOMPLETE = frozenset(
    {ErrorCode.NOT_MEDIA, ErrorCode.NO_AUDIO, ErrorCode.NO_SAMPLES, ErrorCode.DECODE_FAILED}
)
"""Errors that may occur because the rest of a file is missing.

Its index may be at its end, or blocks may still be zeros.
"""


class Dispatcher(Service):
    """Owns the claims of this daemon.

    A claim ends in the ledger (completed, failed, released), or is lost because a person cancelled
    the job.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
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
        self._publisher = publisher
        self._outboxes = outboxes
        self._pauses = pauses
        self._incidents = incidents
        self._settings = settings
        self._clock = clock
        self._jumps = JumpDetector(clock)
        self._wait_for_fixes = wait_for_fixes
        self._roots = {inbox.name: inbox.path for inbox in settings.inboxes}
        self._threads = ThreadGroup("incomplete sources")
        self._claims: dict[JobId, Job] = {}
        self._events: list[PoolEvent] = []
        self._models: dict[str, Loaded] = {}  # by worker
        # monotonic seconds at which the source was found missing
        # how often a link was found in place of a job's source
        self._link_refusals: dict[JobId, int] = {}
        self._missing_since: dict[JobId, float] = {}
        self._check_queue_at = 0.0  # monotonic seconds of the next check of the queue
        self._stopping = asyncio.Event()
        self._publishing: dict[Token, asyncio.Task[None]] = {}

    @property
    def idle(self) -> bool:
        return not self._claims and not self._events

    @property
    def computing(self) -> bool:
        """Return whether there is work that is not blocked by a paused outbox."""
        waiting = [job for job in self._claims.values() if job.token in self._publishing]
        blocked = [job for job in waiting if self._outboxes.is_paused(job.inbox)]
        return bool(self._events) or len(blocked) < len(self._claims)

    def enqueue_event(self, event: PoolEvent) -> None:
        """Queue an event of the pool. Call it on the loop."""
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Run the next round now: there may be jobs to claim, or events."""
        self._check_queue_at = 0.0
        super().wake()

    async def run_once(self) -> float:
        await asyncio.sleep(GATHER_S)
        try:
            await self._process_events()
            if await self._ledger.detect_foreign_commit():
                self._check_queue_at = 0.0
                await self._drop_lost_claims()
            await self._shift_waits()
            if self._clock.monotonic() >= self._check_queue_at:
                self._check_queue_at = self._clock.monotonic() + CHECK_QUEUE_S
                await self._claim_jobs()
        except LedgerUnwritable as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return RETRY_S
        await self._pauses.end_pause(LEDGER_PAUSE)
        return TICK_S

    async def stop(self) -> None:
        """Stop: finish and store the chunks in progress, then release the other claims."""
        await super().stop()
        self._stopping.set()
        await self._pool.stop(self._settings.recovery.stop_grace_s)
        await self._process_events()
        if self._publishing:
            await asyncio.wait(
                self._publishing.values(), timeout=self._settings.recovery.stop_grace_s
            )
        for task in self._publishing.values():
            task.cancel()
        for job in list(self._claims.values()):
            await self._release_claim(job)

    async def _shift_waits(self) -> None:
        """Shift the stored waits when the wall clock is set, so that they keep their length."""
        if jump := self._jumps.measure():
            log.warning("the clock was set by %+.0f s; stored waits are shifted", jump)
            await self._ledger.shift_waits(jump)
            self._jumps.accept(jump)
            self._check_queue_at = 0.0

    # --- to the pool

    async def _claim_jobs(self) -> None:
        """Claim as many jobs as the pool has room for, except those of missing inboxes."""
        if blocked := self._pool.blocked_reason:
            await self._pauses.begin_pause(DEVICE_PAUSE, blocked)
        else:
            await self._pauses.end_pause(DEVICE_PAUSE)
        present = [
            name
            for name in self._roots
            if PauseCause(PauseKind.INBOX, name) not in self._pauses
            and not self._outboxes.is_paused(name)
        ]
        if self._pauses.yields_machine:
            await self._release_all()
        while DEVICE_PAUSE not in self._pauses and not self._pauses.yields_machine:
            model = await self._ledger.find_next_model(inboxes=present)
            room = self._pool.capacity(model) if model else 0
            jobs = await self._ledger.claim_jobs(room, model=model, inboxes=present) if room else []
            if not jobs:
                return
            for job in jobs:
                self._claims[job.id] = job
                await self._start_job(job)

    async def _release_all(self) -> None:
        """Release the claims, to leave the machine to others. Running publications continue."""
        for job in [job for job in self._claims.values() if job.token not in self._publishing]:
            await self._release_claim(job)

    async def _start_job(self, job: Job) -> None:
        if job.transcribed:
            await self._end_transcribed(job, job.warnings)
        elif job.suspects:
            await self._retry_suspect_chunk(job)
        else:
            self._pool.submit_task(self._build_task(job), alone=job.crashes > 0)

    async def _retry_suspect_chunk(self, job: Job) -> None:
        """Retry a suspect chunk: alone, then on the CPU, then marked as a gap."""
        suspect = job.suspects[0]
        only = self._build_task(job, only=frozenset({suspect.index}))
        match decide_poison(
            strikes=suspect.strikes, device=self._pool.device, settings=self._settings.recovery
        ):
            case PoisonDecision.TRY_ALONE:
                self._pool.submit_task(only, alone=True)
            case PoisonDecision.TRY_ON_CPU:
                self._pool.submit_task(only, alone=True, on_cpu=True)
            case PoisonDecision.MARK_GAP:
                gap = Chunk(index=suspect.index, start=suspect.start, end=suspect.end, gap=True)
                await self._ledger.store_chunks([(job.id, job.token, gap)])
                await self._release_claim(job)
            case PoisonDecision.FAIL:
                span = f"from {suspect.start:.1f} s to {suspect.end:.1f} s"
                await self._fail_job(
                    job, ErrorCode.POISON, f"the audio {span} repeatedly ended workers"
                )

    def _build_task(self, job: Job, only: frozenset[int] | None = None) -> Task:
        return Task(
            job_id=job.id,
            token=job.token,
            path=str(job.locate_source(self._roots[job.inbox])),
            root=str(self._roots[job.inbox]),
            signature=job.signature,
            sha256=job.sha256,
            options=job.options,
            language=job.language,
            skip=job.done,
            said=job.said,
            languages=job.languages,
            only=only,
            max_seconds=self._settings.workers.max_hours * 3600,
        )

    # --- from the pool

    async def _process_events(self) -> None:
        """Process the events of the pool. Events that the ledger cannot store now are kept.

        If a stop cancels this, no event is processed twice: operations that the ledger has accepted
        are carried out, and the remaining claims are released. Raises LedgerUnwritable.
        """
        events, self._events = self._events, []
        done = [
            (job, event[1].chunk)
            for event in events
            if isinstance(event, tuple) and isinstance(event[1], ChunkDone)
            # ignore chunks of an earlier claim, and those of a complete transcript
            if (job := self._find_claimed_job(event[1].job_id, event[1].token))
            if job.token not in self._publishing
        ]
        try:
            await self._store_chunks(done)
        except LedgerError:
            self._events = events + self._events
            raise
        handled = await asyncio.gather(*map(self._handle_event, events))
        if not all(handled):
            unhandled = [event for event, ok in zip(events, handled, strict=True) if not ok]
            self._events = unhandled + self._events
            raise LedgerUnwritable("the ledger cannot be written")

    async def _store_chunks(self, done: Sequence[tuple[Job, Chunk]]) -> None:
        """Commit chunks. If one cannot be stored, its job fails and the others are stored.

        Raises LedgerError if the ledger itself fails; then no job is at fault.
        """
        if not done:
            return
        try:
            lost = await self._ledger.store_chunks(
                [(job.id, job.token, chunk) for job, chunk in done]
            )
        except LedgerError:
            raise
        except Exception as error:
            if len(done) > 1:
                for item in done:
                    await self._store_chunks([item])
                return
            [(job, chunk)] = done
            if self._find_claimed_job(job.id, job.token):
                log.exception("cannot store chunk %s of job %s", chunk.index, job.id)
                await self._fail_job(
                    job, ErrorCode.INTERNAL, f"a part of its text cannot be stored: {error}"
                )
        else:
            for job in [job for job, _ in done if job.id in lost]:
                self._forget_claim(job)

    async def _handle_event(self, item: PoolEvent) -> bool:
        """Handle one event. Returns False if the ledger could not store it: repeat it later."""
        try:
            match item:
                case WorkerLost():
                    await self._handle_worker_loss(item)
                case DeviceChange():
                    await self._incidents.record_device_change(item)
                case (worker, report):
                    await self._handle_report(worker, report)
        except LedgerError:
            return False
        except Exception as error:  # a bug must not keep the other events from the ledger
            log.exception("a worker's report could not be handled: %.1000r", item)
            return await self._fail_affected_jobs(
                item, f"a worker's report about it could not be handled: {error!r}"
            )
        return True

    async def _fail_affected_jobs(self, item: PoolEvent, text: str) -> bool:
        """Fail the jobs that an event is about, so that none waits for it.

        Returns False if the ledger could not store it: handle the event again later.
        """
        affected: list[tuple[JobId | None, Token | None]]
        match item:
            case WorkerLost(tasks=tasks):
                affected = [(task.job_id, task.token) for task in tasks]
            case DeviceChange():
                affected = []
            case (_, report):
                affected = [(getattr(report, "job_id", None), getattr(report, "token", None))]
        try:
            for job in [
                job for job_id, token in affected if (job := self._find_claimed_job(job_id, token))
            ]:
                await self._fail_job(job, ErrorCode.INTERNAL, text)
        except LedgerError:
            return False
        except Exception:
            log.exception("cannot fail a job; the stall watchdog will end its claim")
        return True

    async def _handle_report(self, worker: str, report: Report) -> None:
        if isinstance(report, Loaded):
            self._models[worker] = report
        job = self._find_claimed_job(
            getattr(report, "job_id", None), getattr(report, "token", None)
        )
        if job is None:
            return
        async with self._ignore_lost_claim(job):
            match report:
                case Opened(container_seconds=seconds):
                    loaded = self._models.get(worker)
                    await self._ledger.update_claimed_job(
                        job.id,
                        job.token,
                        container_seconds=seconds,
                        model=loaded.model if loaded else None,
                        device=loaded.device if loaded else None,
                    )
                case LanguageFound(language=language, probability=probability):
                    await self._ledger.update_claimed_job(
                        job.id, job.token, language=language, language_probability=probability
                    )
                case TaskDone() if job.token in self._publishing:
                    pass  # reported twice
                case TaskDone() if job.suspects:  # the suspect chunk succeeded: do the others
                    await self._release_claim(job)
                case TaskDone(audio_seconds=seconds, warnings=warnings, tracks=tracks):
                    loaded = self._models.get(worker)
                    if loaded and loaded.warning:
                        warnings = (MediaWarning(WarningKind.OTHER, loaded.warning), *warnings)
                    await self._ledger.mark_transcribed(
                        job.id, job.token, audio_seconds=seconds, warnings=warnings, tracks=tracks
                    )
                    await self._end_transcribed(
                        job, frozenset(warning.kind for warning in warnings)
                    )
                case TaskFailed(code=code, text=text):
                    await self._handle_file_fault(job, ErrorCode(code), text)

    async def _handle_file_fault(self, job: Job, code: ErrorCode, text: str) -> None:
        """Fail a job whose file is at fault.

        A missing source is looked for again first: its whole inbox may be missing, which the inbox
        monitor needs a moment to notice. A file that may be incomplete waits for its rest.
        """
        now = self._clock.monotonic()
        # a file whose folder is replaced by a link again and again is also missing now and then
        may_be_replaced = code is ErrorCode.SOURCE_LINKED or (
            code is ErrorCode.SOURCE_MISSING and job.id in self._link_refusals
        )
        if may_be_replaced and (wait_s := self._link_wait_s(job)):
            await self._release_claim(job, error=(code, text), after_s=wait_s)
        elif (
            code is ErrorCode.SOURCE_MISSING
            and now - self._missing_since.get(job.id, -math.inf) > MISSING_WINDOW_S
        ):
            self._missing_since[job.id] = now
            await self._release_claim(job, after_s=RECHECK_MISSING_S)
        elif code in _POSSIBLY_INCOMPLETE and (wait_s := await self._seconds_until_final(job)):
            await self._release_claim(
                job, error=(code, f"{text}; it may still be incomplete"), after_s=wait_s
            )
        else:
            await self._fail_job(job, code, text)

    def _link_wait_s(self, job: Job) -> float:
        """Seconds until a file is tried again in whose place a link was found, which may be there
        for a moment only. 0: not again.
        """
        refusals = self._link_refusals[job.id] = self._link_refusals.get(job.id, 0) + 1
        if refusals >= (LINK_TRIES if self._wait_for_fixes else LINK_TRIES_ONCE):
            del self._link_refusals[job.id]
            return 0.0
        return min(RECHECK_MISSING_S * 1.5 ** (refusals - 1), LINK_WAIT_S)

    # --- files that end early

    async def _end_transcribed(self, job: Job, warnings: frozenset[WarningKind]) -> None:
        """Publish the transcript, or release the job and wait for the rest of a truncated file."""
        wait_s = await self._seconds_until_final(job) if WarningKind.CUT in warnings else 0.0
        if wait_s:
            await self._release_claim(job, after_s=wait_s)
        else:
            self._start_publication(job)

    async def _seconds_until_final(self, job: Job) -> float:
        """Return the seconds to wait until the end of a truncated file is final; 0: it is final."""
        if job.final_at is None or not self._wait_for_fixes:
            return 0.0
        left_s = (datetime.fromisoformat(job.final_at) - self._clock.utc()).total_seconds()
        if left_s > 0:  # limited, because the clock may have been set meanwhile
            return min(left_s, self._settings.watch.incomplete_max_s)
        root = self._roots[job.inbox]
        try:
            is_growing = await self._threads.run_within(
                ANSWER_S, file_identity.may_go_on, root, job.path, job.signature, job.sha256
            )
        except TimeoutError:  # its folder does not answer
            is_growing = True
        return RECHECK_GROWING_S if is_growing else 0.0

    async def _handle_worker_loss(self, lost: WorkerLost) -> None:
        await self._incidents.record_worker_loss(lost)
        for task in lost.tasks:
            if job := self._find_claimed_job(task.job_id, task.token):
                await self._handle_lost_task(lost, job, task)

    async def _handle_lost_task(self, lost: WorkerLost, job: Job, task: LostTask) -> None:
        """Count a strike for each suspect chunk; release the job, or fail it after too many
        crashes.

        Tasks that were not opened yet do not count as crashed.
        """
        reason = f"{lost.diagnosis.what}: {lost.error}" if lost.error else lost.diagnosis.what
        if lost.diagnosis.remedy is Remedy.OTHER_MODEL:
            await self._postpone_model(job, lost.diagnosis.code, reason)
            return
        async with self._ignore_lost_claim(job):
            for chunk in task.suspects:
                await self._ledger.add_strike(
                    job.id, job.token, chunk.index, chunk.start, chunk.end
                )
        if task.opened and job.crashes + 1 >= self._settings.recovery.max_attempts:
            await self._fail_job(job, lost.diagnosis.code, reason)
        else:
            await self._release_claim(job, crash=task.opened, error=(lost.diagnosis.code, reason))

    async def _postpone_model(self, job: Job, code: ErrorCode, reason: str) -> None:
        """Postpone all jobs for a model that cannot be loaded; jobs for other models continue."""
        if not self._wait_for_fixes:
            await self._fail_job(job, code, reason)
            return
        await self._release_claim(job)
        available_at = format_utc(self._clock.utc() + timedelta(seconds=HOLD_S))
        await self._ledger.postpone_jobs(
            job.options.model, available_at=available_at, code=code, error=reason
        )

    # --- to the outbox

    def _start_publication(self, job: Job) -> None:
        task = asyncio.create_task(self._publish_until_done(job), name=f"publish {job.id}")
        self._publishing[job.token] = task
        task.add_done_callback(lambda _task: self._publishing.pop(job.token, None))

    async def _publish_until_done(self, job: Job) -> None:
        """Publish; retries without counting attempts while the outbox is full or missing."""
        refusals = 0  # refusals by the job's folder while the outbox accepted files
        async with self._ignore_lost_claim(job):
            while not await self._publish_or_pause(job, last=refusals == REFUSAL_TRIES):
                if await self._wait_or_stop(RETRY_S):
                    return
                refusals += not self._outboxes.is_paused(job.inbox)
        self._forget_claim(job)

    async def _publish_or_pause(self, job: Job, *, last: bool) -> bool:
        """As `_try_publish`; if the ledger fails, pauses the queue and returns False."""
        try:
            return await self._try_publish(job, last=last)
        except LedgerError as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return False

    async def _wait_or_stop(self, seconds: float) -> bool:
        """Wait `seconds`, or until the dispatcher is stopped. Returns whether it was stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _try_publish(self, job: Job, *, last: bool) -> bool:
        """Try to publish once. Returns whether the publication has ended.

        `last`: a folder that refuses now fails the job. Raises ClaimLost, LedgerError.
        """
        try:
            await self._publisher.publish_job(job)
        except LedgerError:
            raise
        except OutboxUnavailable as error:
            if not (await self._outboxes.check_writable(job.inbox) and last):
                return False
            await self._fail_job(job, ErrorCode.OUTPUT_REFUSED, str(error))
        except FileFault as fault:
            await self._fail_job(job, fault.code, str(fault))
        except ClaimLost:
            raise
        except Exception as error:
            log.exception("cannot publish job %s", job.id)
            await self._fail_job(
                job, ErrorCode.INTERNAL, f"the transcript could not be published: {error!r}"
            )
        return True

    # --- the ends of a claim

    async def _release_claim(
        self,
        job: Job,
        *,
        error: tuple[ErrorCode, str] | None = None,
        crash: bool = False,
        after_s: float = 0.0,
    ) -> None:
        """Release a claim; its chunks are kept. Only a crash counts as an attempt.

        `after_s`: seconds until the job may be claimed again; after a crash, exponential backoff.
        """
        delay = compute_backoff(job.crashes + 1, self._settings.recovery) if crash else after_s
        until = format_utc(self._clock.utc() + timedelta(seconds=delay)) if delay else None
        code, text = error or (None, None)
        async with self._ignore_lost_claim(job):
            await self._ledger.release_claim(
                job.id,
                job.token,
                available_at=until,
                error_code=code,
                error=text,
                crash=crash,
                counts=crash,
            )
        self._forget_claim(job)

    async def _fail_job(self, job: Job, code: ErrorCode, text: str) -> None:
        async with self._ignore_lost_claim(job):
            failed = await self._ledger.fail_job(job.id, job.token, code=code, error=text)
            try:
                if failed:
                    await self._publisher.publish_failure(job, code, text)
            except Exception:
                log.exception("cannot move or delete the source of job %s", job.id)
        self._forget_claim(job)

    def _find_claimed_job(self, job_id: JobId | None, token: Token | None) -> Job | None:
        """Return the job with this id and claim token; None if the claim is not held."""
        job = self._claims.get(job_id) if job_id is not None else None
        return job if job and job.token == token else None

    @asynccontextmanager
    async def _ignore_lost_claim(self, job: Job) -> AsyncIterator[None]:
        """Ignore ClaimLost inside the `with` block: a person has cancelled the job."""
        try:
            yield
        except ClaimLost:
            self._forget_claim(job)

    def abandon_claim(self, job_id: JobId, token: Token) -> None:
        """Stop the work for a claim that the watchdog has ended in the ledger."""
        if publication := self._publishing.get(token):
            publication.cancel()
        if job := self._find_claimed_job(job_id, token):
            self._forget_claim(job)

    async def _drop_lost_claims(self) -> None:
        held = dict(self._claims)
        for job_id in await self._ledger.find_lost_claims(
            [(job.id, job.token) for job in held.values()]
        ):
            self._forget_claim(held[job_id])

    def _forget_claim(self, job: Job) -> None:
        """Stop tracking a claim that has ended. The job may have been claimed again meanwhile."""
        if self._find_claimed_job(job.id, job.token):
            del self._claims[job.id]
            self._pool.drop_job(job.id)
            self.wake()
