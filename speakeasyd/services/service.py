"""The base class of services: the loop, and an idempotent stop."""

import asyncio
import logging
from contextlib import suppress

from speakeasyd.clock import find_next_check
from speakeasyd.errors import LedgerUnwritable
from speakeasyd.services.failures import ServiceFailures

log = logging.getLogger(__name__)

LEDGER_RETRY_S = 2.0  # seconds before a retry when the ledger refused a write
FAILURE_RETRY_S = 5.0  # seconds before a retry after an unexpected exception


class Service:
    """Calls `run_once` repeatedly: about the returned delay later, or at once after `wake`.

    A subclass implements `run_once`, which returns the seconds until the next round; None: only
    when woken. Tests call `run_once` without the loop.
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
        """The name under which failures of this service are reported to users."""
        return type(self).__name__.lower()

    async def start(self, failures: ServiceFailures | None = None) -> None:
        """Start the loop. `failures`: records an unexpected exception until a round succeeds."""
        self._failures = failures
        self._task = asyncio.create_task(self._run_until_stopped(), name=type(self).__name__)

    async def stop(self) -> None:
        """Stop the loop. Idempotent. Cancels a round in progress at its next await."""
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
            except LedgerUnwritable as error:  # the heartbeat reports it, once
                log.debug("%s waits for the ledger: %s", type(self).__name__, error)
                delay = LEDGER_RETRY_S
            except Exception as error:
                log.exception("%s failed; next try in %.0f s", type(self).__name__, FAILURE_RETRY_S)
                delay = FAILURE_RETRY_S
                if self._failures:
                    await self._failures.begin_failure(
                        self.name, f"{type(error).__name__}: {error}"
                    )
            else:
                if self._failures:
                    await self._failures.end_failure(self.name)
            due = None
            if delay is not None:
                due = find_next_check(asyncio.get_running_loop().time(), delay)
            with suppress(TimeoutError):
                # `wait_for` may miss a cancellation before Python 3.12
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
