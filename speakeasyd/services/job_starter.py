"""Claims pending jobs, as many as the pool has room for, and submits them to it."""

import os

from speakeasyd.config import Settings
from speakeasyd.domain.job import Job
from speakeasyd.domain.pausing import DEVICE_PAUSE, PauseCause, PauseKind
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.domain.queue_order import NextJob, estimate_seconds
from speakeasyd.domain.recovery import PoisonDecision, decide_poison
from speakeasyd.domain.transcript import Chunk
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import claim_jobs, find_next_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.results import store_results
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publications import Publications


class JobStarter:
    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: WorkerPool,
        claims: HeldClaims,
        publications: Publications,
        outboxes: Outboxes,
        pauses: Pauses,
        settings: Settings,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._claims = claims
        self._publications = publications
        self._outboxes = outboxes
        self._pauses = pauses
        self._settings = settings

    async def claim_jobs(self) -> None:
        """Claim as many jobs as the pool has room for, except those of missing folders.

        Releases the claims while a pause leaves the machine to others. Raises LedgerError.
        """
        if blocked := self._pool.blocked_reason:
            await self._pauses.begin_pause(DEVICE_PAUSE, blocked)
        else:
            await self._pauses.end_pause(DEVICE_PAUSE)
        present = self._list_present_inboxes()
        if self._pauses.yields_machine:
            await self._release_computing()
        while DEVICE_PAUSE not in self._pauses and not self._pauses.yields_machine:
            first = await self._ledger.read(find_next_job, self._ledger.now(), inboxes=present)
            if not first:
                return
            room = self._pool.capacity(first.model)
            urgent = not room and self._precedes_all(first)
            if urgent:
                room = min(1, self._pool.capacity(first.model, urgent=True))
            if not room:
                return
            jobs = await self._ledger.write(claim_jobs, room, model=first.model, inboxes=present)
            if not jobs:
                return
            for job in jobs:
                self._claims.add_job(job)
                await self._start_job(job, urgent=urgent)

    def _precedes_all(self, first: NextJob) -> bool:
        return all(first.turn < held.turn for held in self._claims.list_jobs())

    def _list_present_inboxes(self) -> list[str]:
        """Return the inboxes whose folder is there and whose outbox accepts files."""
        return [
            inbox.name
            for inbox in self._settings.inboxes
            if PauseCause(PauseKind.INBOX, inbox.name) not in self._pauses
            and not self._outboxes.is_paused(inbox.name)
        ]

    async def _release_computing(self) -> None:
        """Release the claims, to leave the machine to others. Running publications continue."""
        for job in self._claims.list_jobs():
            if job.token not in self._publications:
                await self._claims.release_claim(job)

    async def _start_job(self, job: Job, *, urgent: bool) -> None:
        if job.transcribed:
            await self._publications.start_when_final(job, job.warnings)
        elif job.suspects:
            await self._retry_suspect_chunk(job)
        else:
            alone = job.crashes > 0
            self._pool.submit_task(self._build_task(job), alone=alone, urgent=urgent)

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
                await self._ledger.write(store_results, [(job.id, job.token, gap)])
                await self._claims.release_claim(job)
            case PoisonDecision.FAIL:
                span = f"from {suspect.start:.1f} s to {suspect.end:.1f} s"
                await self._claims.fail_job(
                    job, ErrorCode.POISON, f"the audio {span} repeatedly ended workers"
                )

    def _build_task(self, job: Job, only: frozenset[int] | None = None) -> Task:
        expected_seconds = estimate_seconds(os.fsdecode(job.path), job.signature.size)
        return Task(
            job_id=job.id,
            token=job.token,
            source=SourceRef(job.inbox, job.path, job.signature, job.sha256),
            options=job.options,
            language=job.language,
            skip=job.done,
            texts=job.texts,
            languages=job.languages,
            only=only,
            added_at=job.queue_key - expected_seconds,
            expected_seconds=expected_seconds,
            max_seconds=self._settings.workers.max_hours * 3600,
        )
