"""Decides what happens to a job whose source is missing, replaced or possibly incomplete."""

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.domain.job import Job, JobId
from speakeasyd.errors import ErrorCode
from speakeasyd.inbox import file_identity
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.thread_group import ThreadGroup

RECHECK_MISSING_S = 10.0  # seconds after which a missing source is looked for again
MISSING_WINDOW_S = 60.0  # seconds within which a source must be missing twice for its job to fail
LINK_TRIES = 20  # most attempts to open a source in whose place a link was found
LINK_TRIES_ONCE = 4  # the same for `once`, which waits for no fixes
LINK_WAIT_S = 120.0  # most seconds between two such attempts
ANSWER_S = 60.0  # seconds for a source's folder to answer
# seconds until a file that has grown is checked again; by then the intake has replaced its job
RECHECK_GROWING_S = 10.0

_POSSIBLY_INCOMPLETE = frozenset(
    {ErrorCode.NOT_MEDIA, ErrorCode.NO_AUDIO, ErrorCode.NO_SAMPLES, ErrorCode.DECODE_FAILED}
)
"""Errors that may occur because the rest of a file is missing.

Its index may be at its end, or blocks may still be zeros.
"""


class SourceFaults:
    def __init__(
        self,
        *,
        claims: HeldClaims,
        roots: Mapping[str, Path],
        incomplete_max_s: float,
        clock: Clock,
        wait_for_fixes: bool,
    ) -> None:
        """`roots`: the folder of each inbox. `incomplete_max_s`: the longest wait for the rest of
        a file. `wait_for_fixes`: wait for the rest of a file at all.
        """
        self._claims = claims
        self._roots = roots
        self._incomplete_max_s = incomplete_max_s
        self._clock = clock
        self._wait_for_fixes = wait_for_fixes
        self._threads = ThreadGroup("incomplete sources")
        # how often a link was found in place of a job's source
        self._link_refusals: dict[JobId, int] = {}
        # monotonic seconds at which the source was found missing
        self._missing_since: dict[JobId, float] = {}

    async def handle_fault(self, job: Job, code: ErrorCode, text: str) -> None:
        """Fail a job whose file is at fault, or release it to try again later.

        A missing source is looked for again first: its whole inbox may be missing, which the inbox
        monitor needs a moment to notice. A file that may be incomplete waits for its rest.
        Raises LedgerError.
        """
        now = self._clock.monotonic()
        # a file whose folder is replaced by a link again and again is also missing now and then
        may_be_replaced = code is ErrorCode.SOURCE_LINKED or (
            code is ErrorCode.SOURCE_MISSING and job.id in self._link_refusals
        )
        if may_be_replaced and (wait_s := self._link_wait_s(job)):
            await self._claims.release_claim(job, error=(code, text), after_s=wait_s)
        elif (
            code is ErrorCode.SOURCE_MISSING
            and now - self._missing_since.get(job.id, -math.inf) > MISSING_WINDOW_S
        ):
            self._missing_since[job.id] = now
            await self._claims.release_claim(job, after_s=RECHECK_MISSING_S)
        elif code in _POSSIBLY_INCOMPLETE and (wait_s := await self.seconds_until_final(job)):
            await self._claims.release_claim(
                job, error=(code, f"{text}; it may still be incomplete"), after_s=wait_s
            )
        else:
            await self._claims.fail_job(job, code, text)

    def _link_wait_s(self, job: Job) -> float:
        """Seconds until a file is tried again in whose place a link was found, which may be there
        for a moment only. 0: not again.
        """
        refusals = self._link_refusals[job.id] = self._link_refusals.get(job.id, 0) + 1
        if refusals >= (LINK_TRIES if self._wait_for_fixes else LINK_TRIES_ONCE):
            del self._link_refusals[job.id]
            return 0.0
        return min(RECHECK_MISSING_S * 1.5 ** (refusals - 1), LINK_WAIT_S)

    async def seconds_until_final(self, job: Job) -> float:
        """Return the seconds to wait until the end of a truncated file is final; 0: it is final."""
        if job.final_at is None or not self._wait_for_fixes:
            return 0.0
        left_s = (datetime.fromisoformat(job.final_at) - self._clock.utc()).total_seconds()
        if left_s > 0:  # limited, because the clock may have been set meanwhile
            return min(left_s, self._incomplete_max_s)
        root = self._roots[job.inbox]
        try:
            is_growing = await self._threads.run_within(
                ANSWER_S, file_identity.may_go_on, root, job.path, job.signature, job.sha256
            )
        except TimeoutError:  # its folder does not answer
            is_growing = True
        return RECHECK_GROWING_S if is_growing else 0.0
