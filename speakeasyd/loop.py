"""Calls from other threads into the daemon's event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

log = logging.getLogger(__name__)


class MainLoop:
    """The event loop of the daemon.

    `schedule_from_thread` is the only function through which a thread (observer, pipe reader,
    audio callback) reaches the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._closed = False
        self._under_way: set[Future[object]] = set()
        self.dropped = 0  # number of calls dropped because the loop was not running

    def schedule_from_thread(
        self, function: Callable[..., Coroutine[Any, Any, object]], *args: object
    ) -> None:
        """Run `function(*args)` on the loop without waiting for it. Raises nothing.

        Calls from one thread start in their order. If the loop is not running, the call is dropped,
        counted and logged. An exception in the coroutine is logged.
        """
        name = getattr(function, "__qualname__", repr(function))
        with self._lock:
            future = self._submit_coroutine(function, args)
            if future is None:
                self.dropped += 1
                log.warning("no running loop for %s; dropped %d so far", name, self.dropped)
                return
            self._under_way.add(future)
        future.add_done_callback(partial(self._on_done, name))

    async def close(self) -> None:
        """Wait for the scheduled calls to finish; later calls are dropped. Call it last, on the
        loop.

        Without it, the loop may end before it has run the calls in its queue.
        """
        with self._lock:
            self._closed = True
            under_way = list(self._under_way)
        if under_way:
            await asyncio.wait([asyncio.wrap_future(future) for future in under_way])

    def _submit_coroutine(
        self, function: Callable[..., Coroutine[Any, Any, object]], args: tuple[object, ...]
    ) -> Future[object] | None:
        if self._closed or not self._loop.is_running():
            return None
        coroutine = function(*args)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop was closed after the check above
            coroutine.close()
            return None

    def _on_done(self, name: str, future: Future[object]) -> None:
        with self._lock:
            self._under_way.discard(future)
        try:
            future.result()
        except CancelledError:
            pass
        except Exception:
            log.exception("%s failed; a thread had scheduled it", name)
