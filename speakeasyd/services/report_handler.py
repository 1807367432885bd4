"""Stores what the workers report: results of all jobs together, everything else one by one."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import RecoverySettings
from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.fault import Remedy
from speakeasyd.domain.job import Job, JobId, Token
from speakeasyd.domain.protocol import (
    ChunkDone,
    LanguageFound,
    Loaded,
    Opened,
    Report,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.retry import HOLD_S
from speakeasyd.domain.worker_pool import (
    DeviceChange,
    LostTask,
    PoolNews,
    WorkerLost,
    WorkerReport,
)
from speakeasyd.errors import ErrorCode, LedgerError, LedgerUnwritable
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.results import Transcribed, WorkerResult, add_strike, store_results
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.publications import Publications
from speakeasyd.services.source_faults import SourceFaults

log = logging.getLogger(__name__)


class ReportHandler:
    """The queue of the pool's events. An event that the ledger cannot store now stays in it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        claims: HeldClaims,
        publications: Publications,
        source_faults: SourceFaults,
        incidents: Incidents,
        settings: RecoverySettings,
        clock: Clock,
        wait_for_fixes: bool,
    ) -> None:
        """`wait_for_fixes`: jobs whose model cannot be loaded wait, else they fail."""
        self._ledger = ledger
        self._claims = claims
        self._publications = publications
        self._source_faults = source_faults
        self._incidents = incidents
        self._settings = settings
        self._clock = clock
        self._wait_for_fixes = wait_for_fixes
        self._events: list[PoolNews] = []
        self._models: dict[str, Loaded] = {}  # by worker

    @property
    def idle(self) -> bool:
        return not self._events

    def enqueue_event(self, event: PoolNews) -> None:
        self._events.append(event)

    async def process_events(self) -> None:
        """Process the queued events. Events that the ledger cannot store now are kept.

        If a stop cancels this, no event is processed twice: operations that the ledger has accepted
        are carried out, and the remaining claims are released. Raises LedgerUnwritable.
        """
        events, self._events = self._events, []
        try:
            await self._store_results(await self._list_results(events))
        except LedgerError:
            self._events = events + self._events
            raise
        others = [event for event in events if _needs_handling(event)]
        errors = await asyncio.gather(*map(self._handle_event, others))
        if failed := [(event, error) for event, error in zip(others, errors, strict=True) if error]:
            self._events = [event for event, _ in failed] + self._events
            raise LedgerUnwritable(str(failed[0][1]))

    async def _list_results(self, events: Sequence[PoolNews]) -> list[tuple[Job, WorkerResult]]:
        """Return what is to be stored. Remembers which model each worker has loaded.

        A job whose report cannot be understood fails. Raises LedgerError.
        """
        results: list[tuple[Job, WorkerResult]] = []
        for event in events:
            if not isinstance(event, WorkerReport):
                continue
            worker, report = event.worker, event.report
            if isinstance(report, Loaded):
                self._models[worker] = report
            job = self._find_job(report)
            if job is None or job.token in self._publications:
                continue  # of a lost claim, or reported again
            try:
                results += [(job, one) for one in self._build_results(worker, job, report)]
            except Exception as error:
                if unwritable := await self._report_bug(event, error):
                    raise unwritable from error
        return results

    def _build_results(self, worker: str, job: Job, report: Report) -> Iterator[WorkerResult]:
        """Yield what is to be stored of a report: one result, or none."""
        loaded = self._models.get(worker)
        match report:
            case Opened(container_seconds=seconds):
                yield JobNoted(
                    container_seconds=seconds,
                    model=loaded.model if loaded else None,
                    device=loaded.device if loaded else None,
                )
            case LanguageFound(language=language, probability=probability):
                yield JobNoted(language=language, language_probability=probability)
            case ChunkDone(chunk=chunk):
                yield chunk
            case TaskDone(audio_seconds=seconds, warnings=warnings) if not job.suspects:
                warnings = loaded.add_warning(warnings) if loaded else warnings
                yield Transcribed(seconds, warnings, report.tracks)

    def _find_job(self, report: Report) -> Job | None:
        """Return the job that a report is about; None if its claim is not held any more."""
        return self._claims.find_job(
            getattr(report, "job_id", None), getattr(report, "token", None)
        )

    async def _store_results(self, results: Sequence[tuple[Job, WorkerResult]]) -> None:
        """Store results. If one cannot be stored, its job fails and the others are stored.

        Raises LedgerError if the ledger itself fails; then no job is at fault.
        """
        if not results:
            return
        try:
            lost = await self._ledger.write(
                store_results, [(job.id, job.token, result) for job, result in results]
            )
        except LedgerError:
            raise
        except Exception as error:
            if len(results) > 1:
                for item in results:
                    await self._store_results([item])
                return
            [(job, result)] = results
            if self._claims.find_job(job.id, job.token):
                log.exception("a result of job %s cannot be stored: %.1000r", job.id, result)
                await self._claims.fail_job(
                    job, ErrorCode.INTERNAL, f"a part of its results cannot be stored: {error}"
                )
        else:
            for job in [job for job, _ in results if job.id in lost]:
                self._claims.forget_claim(job)

    async def _handle_event(self, item: PoolNews) -> LedgerError | None:
        """Handle one event. Returns why the ledger could not store it: repeat it later."""
        try:
            match item:
                case WorkerLost():
                    await self._handle_worker_loss(item)
                case DeviceChange():
                    await self._incidents.record_device_change(item)
                case WorkerReport(report=report):
                    await self._handle_report(report)
        except LedgerError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a bug must not keep the other events away
            return await self._report_bug(item, error)
        return None

    async def _report_bug(self, item: PoolNews, error: Exception) -> LedgerError | None:
        """Log that an event could not be handled, and fail its jobs.

        Returns why the ledger could not store it.
        """
        log.error("a worker's report could not be handled: %.1000r", item, exc_info=error)
        return await self._fail_affected_jobs(
            item, f"a worker's report about it could not be handled: {error!r}"
        )

    async def _fail_affected_jobs(self, item: PoolNews, text: str) -> LedgerError | None:
        """Fail the jobs that an event is about, so that none waits for it.

        Returns why the ledger could not store it: handle the event again later.
        """
        affected: list[tuple[JobId | None, Token | None]]
        match item:
            case WorkerLost(tasks=tasks):
                affected = [(task.job_id, task.token) for task in tasks]
            case DeviceChange():
                affected = []
            case WorkerReport(report=report):
                affected = [(getattr(report, "job_id", None), getattr(report, "token", None))]
        try:
            for job in [
                job for job_id, token in affected if (job := self._claims.find_job(job_id, token))
            ]:
                await self._claims.fail_job(job, ErrorCode.INTERNAL, text)
        except LedgerError as error:
            return error
        except Exception:
            log.exception("cannot fail a job; the stall watchdog will end its claim")
        return None

    # --- reports of a worker

    async def _handle_report(self, report: Report) -> None:
        """Do what is left to do once the results are stored."""
        job = self._find_job(report)
        if job is None or job.token in self._publications:  # perhaps reported twice
            return
        async with self._claims.ignore_lost_claim(job):
            match report:
                case TaskDone() if job.suspects:  # the suspect chunk succeeded: do the others
                    await self._claims.release_claim(job)
                case TaskDone():
                    kinds = frozenset(warning.kind for warning in report.warnings)
                    await self._publications.start_when_final(job, kinds)
                case TaskFailed(code=code, text=text):
                    await self._source_faults.handle_fault(job, ErrorCode(code), text)

    # --- the end of a worker

    async def _handle_worker_loss(self, lost: WorkerLost) -> None:
        await self._incidents.record_worker_loss(lost)
        for task in lost.tasks:
            if job := self._claims.find_job(task.job_id, task.token):
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
        async with self._claims.ignore_lost_claim(job):
            for chunk in task.suspects:
                await self._ledger.write(
                    add_strike,
                    job.id,
                    job.token,
                    chunk=chunk.index,
                    start=chunk.start,
                    end=chunk.end,
                )
        if task.opened and job.crashes + 1 >= self._settings.max_attempts:
            await self._claims.fail_job(job, lost.diagnosis.code, reason)
        else:
            await self._claims.release_claim(
                job, crash=task.opened, error=(lost.diagnosis.code, reason)
            )

    async def _postpone_model(self, job: Job, code: ErrorCode, reason: str) -> None:
        """Postpone all jobs for a model that cannot be loaded; jobs for other models continue."""
        if not self._wait_for_fixes:
            await self._claims.fail_job(job, code, reason)
            return
        await self._claims.release_claim(job)
        available_at = format_utc(self._clock.utc() + timedelta(seconds=HOLD_S))
        await self._ledger.postpone_jobs(
            job.options.model, available_at=available_at, code=code, error=reason
        )


def _needs_handling(event: PoolNews) -> bool:
    """Return whether something is left to do once the results are stored; seldom."""
    return not isinstance(event, WorkerReport) or isinstance(event.report, TaskDone | TaskFailed)
