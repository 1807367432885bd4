"""Hands jobs to the pool, and what comes back to the ledger."""

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
    ErrorCode,
    FileFault,
    LedgerError,
    LedgerUnwritable,
    NotYours,
    OutboxUnavailable,
)
from speakeasyd.inbox import file_identity
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.overview import LEDGER_PAUSE
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup
from speakeasyd.workers.pool import DeviceChange, LostTask, Pool, WorkerLost

log = logging.getLogger(__name__)

TICK_S = 1.0  # seconds between looks at what others changed in the ledger
LOOK_S = 3.0  # seconds between looks at the queue that nothing has woken us for: the time of a retry has come
GATHER_S = 0.02  # seconds in which reports gather, so that one transaction takes them all
RETRY_S = 5.0  # seconds between tries while a disk is full or a folder is away
PLACE_TRIES = 5  # tries to write into a folder that refuses, in an outbox that does not
MISSING_S = 10.0  # seconds after which a source that is gone is looked for once more
MISSED_S = 60.0  # seconds in which a source has to be gone twice for its job to fail
ANSWER_S = 60.0  # seconds in which a source has to be looked at
GOES_ON_S = 10.0  # seconds until a file that has gone on is looked at again: the intake replaces its job before that

News = (
    tuple[str, Report] | WorkerLost | DeviceChange
)  # a worker's name and what it said, its end, its device's state

_WITHOUT_ITS_END = frozenset(
    {ErrorCode.NOT_MEDIA, ErrorCode.NO_AUDIO, ErrorCode.NO_SAMPLES, ErrorCode.DECODE_FAILED}
)
"""What a file may be refused for because its rest has not come: an index at its end, blocks that are still zeros."""


class Dispatcher(Service):
    """Owns the claims. A claim ends in the ledger (completed, failed, released), or a person took the job away."""

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
        patient: bool = True,
    ) -> None:
        """`patient`: jobs whose model cannot be loaded wait for somebody to mend it; else they fail."""
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
        self._patient = patient
        self._roots = {inbox.name: inbox.path for inbox in settings.inboxes}
        self._threads = ThreadGroup("incomplete sources")
        self._claims: dict[JobId, Job] = {}
        self._news: list[News] = []
        self._models: dict[str, Loaded] = {}  # by worker
        self._missed: dict[
            JobId, float
        ] = {}  # monotonic seconds when the source was found to be gone
        self._look_at = 0.0  # monotonic seconds of the next look at the queue
        self._stopping = asyncio.Event()
        self._publishing: dict[Token, asyncio.Task[None]] = {}

    @property
    def idle(self) -> bool:
        return not self._claims and not self._news

    @property
    def computing(self) -> bool:
        """Whether there is work whose end does not depend on an outbox that is paused."""
        waiting = [job for job in self._claims.values() if job.token in self._publishing]
        blocked = [job for job in waiting if self._outboxes.is_paused(job.inbox)]
        return bool(self._news) or len(blocked) < len(self._claims)

    def enqueue_event(self, news: News) -> None:
        """From the pool, on the loop."""
        self._news.append(news)
        self.wake()

    def wake(self) -> None:
        """There may be something to claim, or news."""
        self._look_at = 0.0
        super().wake()

    async def run_once(self) -> float:
        await asyncio.sleep(GATHER_S)
        try:
            await self._process_events()
            if await self._ledger.detect_foreign_commit():
                self._look_at = 0.0
                await self._drop_lost_claims()
            await self._follow_clock()
            if self._clock.monotonic() >= self._look_at:
                self._look_at = self._clock.monotonic() + LOOK_S
                await self._claim_jobs()
        except LedgerUnwritable as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return RETRY_S
        await self._pauses.end_pause(LEDGER_PAUSE)
        return TICK_S

    async def stop(self) -> None:
        """Let the pool finish the chunks in flight, keep what it finished, give the rest back."""
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

    async def _follow_clock(self) -> None:
        """When the wall clock is set, waits move along: each lasts as long as it was meant to."""
        if jump := self._jumps.measure():
            log.warning("the clock was set by %+.0f s; what waits goes by the new time", jump)
            await self._ledger.shift_waits(jump)
            self._jumps.accept(jump)
            self._look_at = 0.0

    # --- to the pool

    async def _claim_jobs(self) -> None:
        """Claim as many jobs as there is room for; those of an inbox that is away stay where they are."""
        if blocked := self._pool.blocked_reason:
            await self._pauses.begin_pause("device", blocked)
        else:
            await self._pauses.end_pause("device")
        present = [
            name
            for name in self._roots
            if f"inbox {name}" not in self._pauses and not self._outboxes.is_paused(name)
        ]
        if self._pauses.yields_machine:
            await self._release_all()
        while "device" not in self._pauses and not self._pauses.yields_machine:
            model = await self._ledger.find_next_model(inboxes=present)
            room = self._pool.capacity(model) if model else 0
            jobs = await self._ledger.claim_jobs(room, model=model, inboxes=present) if room else []
            if not jobs:
                return
            for job in jobs:
                self._claims[job.id] = job
                await self._start_job(job)

    async def _release_all(self) -> None:
        """The machine is left to others. What is on its way into the outbox gets there all the same."""
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
        """A chunk that workers died on: alone, then on the CPU, then given up."""
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
                    job, ErrorCode.POISON, f"what is heard {span} takes workers down"
                )

    def _build_task(self, job: Job, only: frozenset[int] | None = None) -> Task:
        return Task(
            job_id=job.id,
            token=job.token,
            path=str(job.locate_source(self._roots[job.inbox])),
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
        """Bring all news into the ledger. What it cannot take now is brought again.

        Cut short by a stop, nothing is brought twice: what was handed to the ledger is done, and the claims that are
        left are given back.
        """
        news, self._news = self._news, []
        done = [
            (job, item[1].chunk)
            for item in news
            if isinstance(item, tuple) and isinstance(item[1], ChunkDone)
            if (
                job := self._find_claimed_job(item[1].job_id, item[1].token)
            )  # an earlier claim says nothing of this one
            if job.token not in self._publishing  # its text is complete
        ]
        try:
            await self._store_chunks(done)
        except LedgerError:
            self._news = news + self._news
            raise
        taken = await asyncio.gather(*map(self._handle_event, news))
        if not all(taken):
            self._news = [item for item, ok in zip(news, taken, strict=True) if not ok] + self._news
            raise LedgerUnwritable("the ledger cannot be written")

    async def _store_chunks(self, done: Sequence[tuple[Job, Chunk]]) -> None:
        """Keep these chunks. If one cannot be kept, its job fails, and the others are kept all the same.

        Raises LedgerError: the ledger itself is in trouble, and no job is to blame.
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
                for one in done:
                    await self._store_chunks([one])
                return
            [(job, chunk)] = done
            if self._find_claimed_job(job.id, job.token):
                log.exception("chunk %s of job %s cannot be kept", chunk.index, job.id)
                await self._fail_job(
                    job, ErrorCode.INTERNAL, f"a part of its text cannot be kept: {error}"
                )
        else:
            for job in [job for job, _ in done if job.id in lost]:
                self._forget_claim(job)

    async def _handle_event(self, item: News) -> bool:
        """Act on one piece of news. False: the ledger could not take it, bring it again."""
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
        except Exception as error:  # a defect must not keep the other news from the ledger
            log.exception("a report was not understood: %.1000r", item)
            return await self._fail_those_in(
                item, f"a report about it could not be taken: {error!r}"
            )
        return True

    async def _fail_those_in(self, item: News, text: str) -> bool:
        """Fail the jobs that a piece of news is about, so that none waits for it. False: bring the news again."""
        about: list[tuple[JobId | None, Token | None]]
        match item:
            case WorkerLost(tasks=tasks):
                about = [(task.job_id, task.token) for task in tasks]
            case DeviceChange():
                about = []
            case (_, report):
                about = [(getattr(report, "job_id", None), getattr(report, "token", None))]
        try:
            for job in [
                job for job_id, token in about if (job := self._find_claimed_job(job_id, token))
            ]:
                await self._fail_job(job, ErrorCode.INTERNAL, text)
        except LedgerError:
            return False
        except Exception:
            log.exception("a job could not be failed; the watchdog will find it")
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
                    pass  # said twice
                case TaskDone() if job.suspects:  # the suspect alone came through: on with the rest
                    await self._release_claim(job)
                case TaskDone(audio_seconds=seconds, warnings=warnings):
                    loaded = self._models.get(worker)
                    if loaded and loaded.warning:
                        warnings = (MediaWarning(WarningKind.OTHER, loaded.warning), *warnings)
                    await self._ledger.mark_transcribed(
                        job.id, job.token, audio_seconds=seconds, warnings=warnings
                    )
                    await self._end_transcribed(
                        job, frozenset(warning.kind for warning in warnings)
                    )
                case TaskFailed(code=code, text=text):
                    await self._handle_file_fault(job, ErrorCode(code), text)

    async def _handle_file_fault(self, job: Job, code: ErrorCode, text: str) -> None:
        """The file is at fault, unless it is its whole inbox that went away: the lookout needs a moment to see that."""
        now = self._clock.monotonic()
        if (
            code is ErrorCode.SOURCE_MISSING
            and now - self._missed.get(job.id, -math.inf) > MISSED_S
        ):
            self._missed[job.id] = now
            await self._release_claim(job, after_s=MISSING_S)
        elif code in _WITHOUT_ITS_END and (wait_s := await self._seconds_until_final(job)):
            await self._release_claim(
                job, error=(code, f"{text}; it may still be incomplete"), after_s=wait_s
            )
        else:
            await self._fail_job(job, code, text)

    # --- files that end early

    async def _end_transcribed(self, job: Job, warnings: frozenset[WarningKind]) -> None:
        """Publish the transcript, or wait for the rest of a file that ends early: others have their turn meanwhile."""
        wait_s = await self._seconds_until_final(job) if WarningKind.CUT in warnings else 0.0
        if wait_s:
            await self._release_claim(job, after_s=wait_s)
        else:
            self._start_publication(job)

    async def _seconds_until_final(self, job: Job) -> float:
        """How long to wait before the end of a file that ends early is final; 0: it is now."""
        if job.final_at is None or not self._patient:
            return 0.0
        left_s = (datetime.fromisoformat(job.final_at) - self._clock.utc()).total_seconds()
        if left_s > 0:  # no more than was ever meant: the clock may have been set meanwhile
            return min(left_s, self._settings.watch.incomplete_max_s)
        root = self._roots[job.inbox]
        try:
            goes_on = await self._threads.run_within(
                ANSWER_S, file_identity.may_go_on, root, job.path, job.signature, job.sha256
            )
        except TimeoutError:  # its folder does not answer
            goes_on = True
        return GOES_ON_S if goes_on else 0.0

    async def _handle_worker_loss(self, lost: WorkerLost) -> None:
        await self._incidents.record_worker_loss(lost)
        for task in lost.tasks:
            if job := self._find_claimed_job(task.job_id, task.token):
                await self._handle_lost_task(lost, job, task)

    async def _handle_lost_task(self, lost: WorkerLost, job: Job, task: LostTask) -> None:
        """Strike what was on the device when the worker died; give back untouched what was only waiting."""
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
        """No job that asks for this model can be done until somebody mends it; those of other models go on."""
        if not self._patient:
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
        """Publish, however long the outbox is full or away: that costs no attempt."""
        refusals = 0  # of the job's own place, while the outbox took files
        async with self._ignore_lost_claim(job):
            while not await self._published_safely(job, last=refusals == PLACE_TRIES):
                if await self._stops_within(RETRY_S):
                    return
                refusals += not self._outboxes.is_paused(job.inbox)
        self._forget_claim(job)

    async def _published_safely(self, job: Job, *, last: bool) -> bool:
        """As `_try_publish`, while the ledger takes no word of how it ended."""
        try:
            return await self._try_publish(job, last=last)
        except LedgerError as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return False

    async def _stops_within(self, seconds: float) -> bool:
        """Waits so long, or until the dispatcher is stopped: then the job is given back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _try_publish(self, job: Job, *, last: bool) -> bool:
        """Whether it is over. `last`: a place that refuses now fails the job."""
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
        except NotYours:
            raise
        except Exception as error:
            log.exception("job %s could not be published", job.id)
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
        """Back to pending, its chunks kept. Only a crash counts: the file had no part in anything else."""
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
                log.exception("the source of job %s could not be put away", job.id)
        self._forget_claim(job)

    def _find_claimed_job(self, job_id: JobId | None, token: Token | None) -> Job | None:
        """The job that something is about, if its claim is still ours."""
        job = self._claims.get(job_id) if job_id is not None else None
        return job if job and job.token == token else None

    @asynccontextmanager
    async def _ignore_lost_claim(self, job: Job) -> AsyncIterator[None]:
        """What is done inside ends quietly when the claim turns out to be lost: a person cancelled the job."""
        try:
            yield
        except NotYours:
            self._forget_claim(job)

    def let_go(self, job_id: JobId, token: Token) -> None:
        """Somebody else has ended this claim in the ledger: forget what is being done for it."""
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
        """This claim is over; the job may have been claimed anew by now."""
        if self._find_claimed_job(job.id, job.token):
            del self._claims[job.id]
            self._pool.drop_job(job.id)
            self.wake()
