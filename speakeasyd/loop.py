"""The one way from any thread into the daemon's event loop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

log = logging.getLogger(__name__)


class MainLoop:
    """The loop that the daemon runs on, captured once at start.

    `hand_over` is the only function through which a thread (observer, pipe reader, audio callback) reaches the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.dropped = 0  # hand-overs that found no running loop

    def hand_over(self, function: Callable[..., Coroutine[Any, Any, object]], *args: object) -> None:
        """Run `function(*args)` on the loop, without waiting for it. Never raises into the calling thread.

        With no running loop the call is counted and logged. What the coroutine raises is logged.
        """
        if not self._loop.is_running():
            self._drop(function)
            return
        coroutine = function(*args)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop was closed since the check above
            coroutine.close()
            self._drop(function)
            return
        future.add_done_callback(_log_failure)

    def _drop(self, function: Callable[..., object]) -> None:
        self.dropped += 1
        log.warning("no running loop for %s; dropped %d so far", function.__qualname__, self.dropped)


def _log_failure(future: Future[object]) -> None:
    try:
        future.result()
    except CancelledError:
        pass
    except Exception:
        log.exception("a hand-over to the loop failed")
