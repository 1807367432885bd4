"""The loop that every service runs in, and its stop, written once."""

import asyncio
import logging
from contextlib import suppress

from speakeasyd.errors import LedgerUnwritable
from speakeasyd.services.failures import ServiceFailures

log = logging.getLogger(__name__)

LEDGER_RETRY_S = 2.0  # seconds before a service tries again for which the ledger took no write
BREATHER_S = 5.0  # seconds before a service that failed by a defect tries again


class Service:
    """Calls `run_once` again and again: when it asked to, or at once after `wake`.

    A subclass writes `run_once`, which returns the seconds until it wants to run again, None for "only when woken".
    Tests call `run_once` themselves and need no loop.
    """

    def __init__(self) -> None:
        self._failures: ServiceFailures | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leaving = False

    async def run_once(self) -> float | None:
        raise NotImplementedError

    def wake(self) -> None:
        self._wake.set()

    @property
    def name(self) -> str:
        """For people: what fails when this service does."""
        return type(self).__name__.lower()

    async def start(self, failures: ServiceFailures | None = None) -> None:
        """`failures`: where an unexpected exception is told until a round succeeds again."""
        self._failures = failures
        self._task = asyncio.create_task(self._run_until_stopped(), name=type(self).__name__)

    async def stop(self) -> None:
        """Idempotent. A `run_once` in progress is cancelled at its next await, or is the last if it misses that."""
        self._leaving = True
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run_until_stopped(self) -> None:
        while not self._leaving:
            self._wake.clear()
            try:
                delay = await self.run_once()
            except LedgerUnwritable as error:  # the heartbeat notices too, and tells of it once
                log.debug("%s waits for the ledger: %s", type(self).__name__, error)
                delay = LEDGER_RETRY_S
            except Exception as error:
                log.exception("%s failed; it goes on in %.0f s", type(self).__name__, BREATHER_S)
                delay = BREATHER_S
                if self._failures:
                    await self._failures.begin_failure(
                        self.name, f"{type(error).__name__}: {error}"
                    )
            else:
                if self._failures:
                    await self._failures.end_failure(self.name)
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    delay
                ):  # `wait_for` may miss a cancellation before Python 3.12
                    await self._wake.wait()
