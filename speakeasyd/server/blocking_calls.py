"""Calls of the server that may wait for a folder, a device or a long computation.

Each purpose has threads of its own, and so has each inbox: a folder that does not answer holds only
the requests that need it. Every call has a deadline; the loop's shared executor is not used.
"""

import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.thread_group import ThreadGroup

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_S = 120.0  # seconds for one call
RELEASE_S = 5.0  # seconds for which a request waits for a call that only frees something
RATE = 100_000  # bytes a second: what a folder transfers at least
THREADS = 4  # of one inbox and purpose

log = logging.getLogger(__name__)


class BlockingCalls:
    """The calls of one purpose, for example all writes of uploads into one inbox."""

    def __init__(self, place: str, *, threads: int = THREADS) -> None:
        """`place`: what the calls may wait for, for the answer to the client."""
        self._place = place
        self._threads = ThreadGroup(f"server: {place}", size=threads)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call. Raises RequestRefused: 503 after `ANSWER_S`."""
        return await self.run_within(ANSWER_S, function, *args, **kwargs)

    async def run_within(
        self, seconds: float, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, with another deadline in seconds."""
        return await self._acquire(seconds, function, _keep_result, *args, **kwargs)

    async def acquire(
        self,
        acquire: Callable[P, T],
        release: Callable[[T], object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `run`. A result that comes too late is given to `release`, in the thread."""
        return await self._acquire(ANSWER_S, acquire, release, *args, **kwargs)

    async def release(self, function: Callable[[], object]) -> None:
        """Run a call that frees something. It continues in its thread if it takes long.

        A failure is logged, not raised.
        """
        try:
            await self._threads.run_within(RELEASE_S, function)
        except OSError as error:  # TimeoutError is one
            log.warning("%s: cleaning up is delayed or failed: %s", self._place, error)

    def close(self) -> None:
        """End the idle threads."""
        self._threads.close()

    async def _acquire(
        self,
        seconds: float,
        acquire: Callable[P, T],
        release: Callable[[T], object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            return await self._threads.acquire_within(seconds, acquire, release, *args, **kwargs)
        except TimeoutError as error:
            raise RequestRefused(
                503, f"{self._place} does not answer", hint="Retry later."
            ) from error


class Transfer:
    """The calls of one upload or download.

    One deadline holds for all of them together. It grows with the bytes that were transferred.
    """

    def __init__(self, calls: BlockingCalls) -> None:
        self._calls = calls
        self._left_s = ANSWER_S

    async def run(
        self, size: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a call that transfers at most `size` bytes. Raises RequestRefused: 503."""
        self._left_s += size / RATE
        began = time.monotonic()
        try:
            return await self._calls.run_within(self._left_s, function, *args, **kwargs)
        finally:
            self._left_s -= time.monotonic() - began


class CallGroups:
    """The blocking calls of the server, by purpose."""

    def __init__(self) -> None:
        self.recorder = BlockingCalls("the recorder", threads=1)
        self.rendering = BlockingCalls("the renderer", threads=2)
        self.samples = BlockingCalls("the folder for temporary files", threads=2)
        self._of_inboxes: dict[tuple[str, str], BlockingCalls] = {}

    def uploads(self, inbox: str) -> BlockingCalls:
        """Calls for uploads into one inbox."""
        return self._of_inbox("uploads", inbox)

    def audio(self, inbox: str) -> BlockingCalls:
        """Calls that read the sources of one inbox, also from its archive."""
        return self._of_inbox("audio", inbox)

    def close(self) -> None:
        """End the idle threads of all groups."""
        for calls in (
            self.recorder,
            self.rendering,
            self.samples,
            *self._of_inboxes.values(),
        ):
            calls.close()

    def _of_inbox(self, purpose: str, inbox: str) -> BlockingCalls:
        key = purpose, inbox
        if key not in self._of_inboxes:
            self._of_inboxes[key] = BlockingCalls(f"the inbox {inbox!r}")
        return self._of_inboxes[key]


def _keep_result(_result: object) -> None:
    """Release nothing."""
