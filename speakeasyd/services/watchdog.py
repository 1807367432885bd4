"""Finds claimed jobs without progress, whatever the cause, and ends their claims.

It is independent of the dispatcher: it reads the ledger, asks the pool, and changes the ledger
itself. So it works when the dispatcher fails in every round, a publication hangs, or a report was
lost.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from speakeasyd.clock import Clock
from speakeasyd.config import RecoverySettings
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.incidents import STALL, Incident, IncidentAction
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.pausing import LEDGER_PAUSE, PauseCause, PauseKind
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger.claims import fail_job, release_claim
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import (
    Underway,
    chunks_of_unfinished,
    close_incident,
    find_underway,
    open_incident,
)
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service

CHECK_S = 4.0  # seconds between checks
SUSPENDED_S = 30.0  # seconds without a check: the machine was suspended, so no progress is expected
# Least seconds for a publication: an attempt together with others and one alone, each of which may
# wait a minute for the outbox
PUBLISH_LEAST_S = 150.0

AbandonClaim = Callable[[JobId, Token], None]
Progress = tuple[int, float, bool]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ObservedProgress:
    """The progress of a claim, and the monotonic second since which it is the same."""

    progress: Progress
    since: float


@dataclass(frozen=True, slots=True)
class _StalledJob:
    incident: int
    began: float  # monotonic seconds
    chunks: int  # committed chunks at that time


class StallWatchdog(Service):
    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: WorkerPool,
        pauses: Pauses,
        failures: ServiceFailures,
        settings: RecoverySettings,
        clock: Clock,
        abandon_claim: AbandonClaim,
    ) -> None:
        """Create the watchdog. `abandon_claim`: stops the work for a claim that was ended."""
        super().__init__()
        self._ledger = ledger
        self._pool = pool
        self._pauses = pauses
        self._service_failures = failures
        self._settings = settings
        self._clock = clock
        self._abandon_claim = abandon_claim
        self._seen: dict[Token, _ObservedProgress] = {}
        self._stalls: dict[JobId, _StalledJob] = {}  # stalls that are not resolved
        self._checked_at = clock.monotonic()

    async def run_once(self) -> float:
        now = self._clock.monotonic()
        if now - self._checked_at > SUSPENDED_S:
            self._seen.clear()
        self._checked_at = now
        underway = await self._ledger.read(find_underway)
        before, self._seen = self._seen, {}
        for job in underway:
            seen = before.get(job.token)
            self._seen[job.token] = await self._check_job(job, seen, now)
        await self._resolve_stalls(now)
        return CHECK_S

    async def _check_job(
        self, job: Underway, seen: _ObservedProgress | None, now: float
    ) -> _ObservedProgress:
        progress = (job.chunks, job.progress, job.transcribed)
        if seen is None or seen.progress != progress or self._is_paused(job):
            return _ObservedProgress(progress, now)
        neglected = self._pool.neglects(job.id)
        if neglected is False:
            # its worker is running, and its supervisor watches the worker
            return _ObservedProgress(progress, now)
        least = PUBLISH_LEAST_S if job.transcribed else 0.0
        if neglected or now - seen.since > max(self._settings.stall_s, least):
            await self._end_claim(job, now)
        return seen

    def _is_paused(self, job: Underway) -> bool:
        """Return whether a pause covers the job, so that it has to wait."""
        outbox = PauseCause(PauseKind.OUTBOX, job.inbox)
        return LEDGER_PAUSE in self._pauses or outbox in self._pauses

    async def _end_claim(self, job: Underway, now: float) -> None:
        """Release or fail the job, and open an incident.

        A stalled publication does not count as a crash.
        """
        phase = Phase.PUBLICATION if job.transcribed else Phase.TRANSCRIPTION
        text = (
            f"the {phase} of {job.path} made no progress for {self._settings.stall_s:g} s or longer"
        )
        is_final = not job.transcribed and job.crashes + 1 >= self._settings.max_attempts
        try:
            if is_final:
                await self._ledger.write(
                    fail_job, job.id, job.token, code=ErrorCode.INTERNAL, error=text
                )
            else:
                await self._ledger.write(
                    release_claim,
                    job.id,
                    job.token,
                    available_at=None,
                    error_code=ErrorCode.INTERNAL,
                    error=text,
                    crash=not job.transcribed,
                )
        except ClaimLost:  # the claim ended in the meantime
            return
        log.error("job %s: %s", job.id, text)
        self._abandon_claim(job.id, job.token)
        await self._service_failures.begin_failure(_name_job(job.id), text)
        incident = await self._ledger.write(
            open_incident,
            Incident(
                kind=STALL,
                phase=phase,
                summary=text,
                action=IncidentAction.FAIL_JOB if is_final else IncidentAction.RELEASE_JOB,
                job_id=job.id,
            ),
        )
        self._stalls[job.id] = _StalledJob(incident=incident, began=now, chunks=job.chunks)

    async def _resolve_stalls(self, now: float) -> None:
        """Resolve the stalls whose jobs have ended or made progress."""
        if not self._stalls:
            return
        chunks = await self._ledger.read(chunks_of_unfinished, list(self._stalls))
        over = [
            job_id for job_id, stall in self._stalls.items() if chunks.get(job_id) != stall.chunks
        ]
        for job_id in over:
            stall = self._stalls[job_id]
            await self._ledger.write(
                close_incident, stall.incident, cost_seconds=round(now - stall.began, 3)
            )
            await self._service_failures.end_failure(_name_job(job_id))
            del self._stalls[job_id]


def _name_job(job_id: JobId) -> str:
    return f"job {job_id}"
