"""Finds jobs that are `processing` and make no progress, whoever is at fault, and ends their claims.

It takes no part in the work: it reads the ledger and asks the pool, and changes the ledger itself. A dispatcher that
fails in every round, a publication that never ends and a report that was lost cannot stop it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from speakeasyd.clock import Clock
from speakeasyd.config import RecoverySettings
from speakeasyd.domain.job import JobId, Token
from speakeasyd.errors import ErrorCode, NotYours
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import Underway
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.workers.pool import Pool

LOOK_S = 2.0  # seconds between looks
ASLEEP_S = 30.0  # seconds without a look: the machine slept, and nobody could make progress
# Seconds that a publication may always take: it tries again when a folder refuses
PUBLISH_LEAST_S = 60.0

DropTask = Callable[[JobId, Token], None]
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
    chunks: int  # of the job that were kept by then


class StallWatchdog(Service):
    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: Pool,
        pauses: Pauses,
        failures: ServiceFailures,
        settings: RecoverySettings,
        clock: Clock,
        let_go: DropTask,
    ) -> None:
        """`let_go`: tells whoever works on a claim that it has ended."""
        super().__init__()
        self._ledger = ledger
        self._pool = pool
        self._pauses = pauses
        self._shown = failures
        self._settings = settings
        self._clock = clock
        self._let_go = let_go
        self._seen: dict[Token, _ObservedProgress] = {}
        self._stalls: dict[JobId, _StalledJob] = {}  # those that are not over
        self._looked_at = clock.monotonic()

    async def run_once(self) -> float:
        now = self._clock.monotonic()
        if now - self._looked_at > ASLEEP_S:
            self._seen.clear()
        self._looked_at = now
        underway = await self._ledger.underway()
        before, self._seen = self._seen, {}
        for job in underway:
            seen = before.get(job.token)
            self._seen[job.token] = await self._look_at(job, seen, now)
        await self._resolve(now)
        return LOOK_S

    async def _look_at(
        self, job: Underway, seen: _ObservedProgress | None, now: float
    ) -> _ObservedProgress:
        progress = (job.chunks, job.progress, job.transcribed)
        if seen is None or seen.progress != progress or self._is_excused(job):
            return _ObservedProgress(progress, now)
        neglected = self._pool.neglects(job.id)
        if neglected is False:
            return _ObservedProgress(
                progress, now
            )  # its worker is at work, or is watched by its supervisor
        least = PUBLISH_LEAST_S if job.transcribed else 0.0
        if neglected or now - seen.since > max(self._settings.stall_s, least):
            await self._end_claim(job, now)
        return seen

    def _is_excused(self, job: Underway) -> bool:
        """While a pause covers a job, it has to wait."""
        return any(cause in self._pauses for cause in ("ledger", f"outbox {job.inbox}"))

    async def _end_claim(self, job: Underway, now: float) -> None:
        """Give the job back, or up, and say so. Only what a file may have caused counts against it."""
        where = "publication" if job.transcribed else "transcription"
        text = (
            f"the {where} of {job.path} made no progress for {self._settings.stall_s:g} s or longer"
        )
        hopeless = not job.transcribed and job.crashes + 1 >= self._settings.max_attempts
        try:
            if hopeless:
                await self._ledger.fail_job(job.id, job.token, code=ErrorCode.INTERNAL, error=text)
            else:
                await self._ledger.release_claim(
                    job.id,
                    job.token,
                    available_at=None,
                    error_code=ErrorCode.INTERNAL,
                    error=text,
                    crash=not job.transcribed,
                )
        except NotYours:  # it has ended just now
            return
        log.error("job %s: %s", job.id, text)
        self._let_go(job.id, job.token)
        await self._shown.begin_failure(_name(job.id), text)
        action = "the job has failed" if hopeless else "the job begins again where it was"
        incident = await self._ledger.open_incident(
            kind="stall",
            phase=where,
            device=None,
            worker=None,
            error=text,
            action=action,
            job_id=job.id,
        )
        self._stalls[job.id] = _StalledJob(incident=incident, began=now, chunks=job.chunks)

    async def _resolve(self, now: float) -> None:
        """A stall is over when its job has ended or has got further."""
        if not self._stalls:
            return
        chunks = await self._ledger.chunks_of_unfinished(list(self._stalls))
        over = [
            job_id for job_id, stall in self._stalls.items() if chunks.get(job_id) != stall.chunks
        ]
        for job_id in over:
            stall = self._stalls[job_id]
            await self._ledger.close_incident(
                stall.incident, cost_seconds=round(now - stall.began, 3)
            )
            await self._shown.end_failure(_name(job_id))
            del self._stalls[job_id]


def _name(job_id: JobId) -> str:
    return f"job {job_id}"
