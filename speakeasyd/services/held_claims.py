"""The claims (leases) that this daemon holds, and the ways in which one ends."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.job import Job, JobId, Token
from speakeasyd.domain.retry import BackoffSettings, compute_backoff
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger.claims import fail_job, release_claim
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.transitions import find_lost_claims
from speakeasyd.services.publisher import Publisher

log = logging.getLogger(__name__)


class HeldClaims:
    """A claim ends in the ledger (completed, failed, released), or is lost.

    It is lost when a person cancels the job or the stall watchdog ends the claim. A change with a
    lost claim changes nothing in the ledger, and the claim is forgotten.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        publisher: Publisher,
        backoff: BackoffSettings,
        clock: Clock,
        on_end: Callable[[JobId], None],
    ) -> None:
        """`backoff`: of jobs on which a worker died. `on_end`: called when a claim has ended."""
        self._ledger = ledger
        self._publisher = publisher
        self._backoff = backoff
        self._clock = clock
        self._on_end = on_end
        self._jobs: dict[JobId, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def list_jobs(self) -> list[Job]:
        return list(self._jobs.values())

    def add_job(self, job: Job) -> None:
        self._jobs[job.id] = job

    def find_job(self, job_id: JobId | None, token: Token | None) -> Job | None:
        """Return the job with this id and claim token; None if the claim is not held."""
        job = self._jobs.get(job_id) if job_id is not None else None
        return job if job and job.token == token else None

    def forget_claim(self, job: Job) -> None:
        """Stop tracking a claim that has ended. The job may have been claimed again meanwhile."""
        if self.find_job(job.id, job.token):
            del self._jobs[job.id]
            self._on_end(job.id)

    async def release_claim(
        self,
        job: Job,
        *,
        error: tuple[ErrorCode, str] | None = None,
        crash: bool = False,
        after_s: float = 0.0,
    ) -> None:
        """Release a claim; its chunks are kept. Only a crash counts as an attempt.

        `after_s`: seconds until the job may be claimed again; after a crash, exponential backoff.
        Raises LedgerError.
        """
        delay = compute_backoff(job.crashes + 1, self._backoff) if crash else after_s
        until = format_utc(self._clock.utc() + timedelta(seconds=delay)) if delay else None
        code, text = error or (None, None)
        async with self.ignore_lost_claim(job):
            await self._ledger.write(
                release_claim,
                job.id,
                job.token,
                available_at=until,
                error_code=code,
                error=text,
                crash=crash,
                counts=crash,
            )
        self.forget_claim(job)

    async def fail_job(self, job: Job, code: ErrorCode, text: str) -> None:
        """Fail a job and dispose of its source as configured. Raises LedgerError."""
        async with self.ignore_lost_claim(job):
            failed = await self._ledger.write(fail_job, job.id, job.token, code=code, error=text)
            try:
                if failed:
                    await self._publisher.publish_failure(job, code, text)
            except Exception:
                log.exception("cannot move or delete the source of job %s", job.id)
        self.forget_claim(job)

    @asynccontextmanager
    async def ignore_lost_claim(self, job: Job) -> AsyncIterator[None]:
        """Ignore ClaimLost inside the `with` block, and forget the claim."""
        try:
            yield
        except ClaimLost:
            self.forget_claim(job)

    async def drop_lost_claims(self) -> None:
        """Forget the claims that another program has ended in the ledger. Raises LedgerError."""
        held = dict(self._jobs)
        for job_id in await self._ledger.read(
            find_lost_claims, [(job.id, job.token) for job in held.values()]
        ):
            self.forget_claim(held[job_id])
