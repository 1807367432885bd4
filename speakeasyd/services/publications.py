"""The publications in progress: each is repeated until it ends, whatever its outbox does."""

import asyncio
import logging
from contextlib import suppress

from speakeasyd.domain.job import Job, Token
from speakeasyd.domain.pausing import LEDGER_PAUSE
from speakeasyd.domain.transcript import WarningKind
from speakeasyd.errors import ClaimLost, ErrorCode, FileFault, LedgerError, OutboxUnavailable
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_faults import SourceFaults

log = logging.getLogger(__name__)

RETRY_S = 5.0  # seconds between retries while an outbox is full or missing
REFUSAL_TRIES = 5  # attempts to write into a folder that refuses while the outbox accepts files


class Publications:
    """Publishes transcribed jobs; the publications of different jobs run at the same time."""

    def __init__(
        self,
        *,
        claims: HeldClaims,
        publisher: Publisher,
        outboxes: Outboxes,
        pauses: Pauses,
        source_faults: SourceFaults,
    ) -> None:
        self._claims = claims
        self._publisher = publisher
        self._outboxes = outboxes
        self._pauses = pauses
        self._source_faults = source_faults
        self._stopping = asyncio.Event()
        self._running: dict[Token, asyncio.Task[None]] = {}

    def __contains__(self, token: Token) -> bool:
        """Return whether the job with this claim is being published."""
        return token in self._running

    async def start_when_final(self, job: Job, warnings: frozenset[WarningKind]) -> None:
        """Start to publish a transcribed job, or release it to wait for the rest of its file.

        Raises LedgerError.
        """
        wait_s = 0.0
        if WarningKind.CUT in warnings:
            wait_s = await self._source_faults.seconds_until_final(job)
        if job.token in self:  # the end was reported twice
            return
        if wait_s:
            await self._claims.release_claim(job, after_s=wait_s)
            return
        task = asyncio.create_task(self._publish_until_done(job), name=f"publish {job.id}")
        self._running[job.token] = task
        task.add_done_callback(lambda _task: self._running.pop(job.token, None))

    def cancel(self, token: Token) -> None:
        """Cancel a publication whose claim has ended in the ledger."""
        if task := self._running.get(token):
            task.cancel()

    async def wait_all(self, limit_s: float) -> None:
        """Wait until the running publications have ended, for `limit_s` seconds at most."""
        if self._running:
            await asyncio.wait(self._running.values(), timeout=limit_s)

    def stop_retrying(self) -> None:
        """End the publications that wait for their outbox; the others may still end."""
        self._stopping.set()

    async def stop(self, grace_s: float) -> None:
        """Let the publications end for `grace_s` seconds, then cancel them. Idempotent."""
        self.stop_retrying()
        await self.wait_all(grace_s)
        for task in self._running.values():
            task.cancel()

    async def _publish_until_done(self, job: Job) -> None:
        """Publish; retries without counting attempts while the outbox is full or missing."""
        refusals = 0  # refusals by the job's folder while the outbox accepted files
        async with self._claims.ignore_lost_claim(job):
            while not await self._publish_or_pause(job, last=refusals == REFUSAL_TRIES):
                if await self._wait_or_stop(RETRY_S):
                    return
                refusals += not self._outboxes.is_paused(job.inbox)
        self._claims.forget_claim(job)

    async def _publish_or_pause(self, job: Job, *, last: bool) -> bool:
        """As `_try_publish`; if the ledger fails, pauses the queue and returns False."""
        try:
            return await self._try_publish(job, last=last)
        except LedgerError as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
            return False

    async def _wait_or_stop(self, seconds: float) -> bool:
        """Wait `seconds`, or until `stop_retrying` is called. Returns whether it was."""
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
            await self._claims.fail_job(job, ErrorCode.OUTPUT_REFUSED, str(error))
        except FileFault as fault:
            await self._claims.fail_job(job, fault.code, str(fault))
        except ClaimLost:
            raise
        except Exception as error:
            log.exception("cannot publish job %s", job.id)
            await self._claims.fail_job(
                job, ErrorCode.INTERNAL, f"the transcript could not be published: {error!r}"
            )
        return True
