"""Threads for calls that may block forever: network, a user's command, a folder on a dead server.

Such a call cannot be interrupted. It must not run in the event loop's shared executor: the few
threads of that executor serve all local work, and the process waits for them at exit. A thread
group has daemon threads of its own and a deadline over the whole call.
"""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

SPARE_THREADS = 3  # most threads that are added to replace those with an abandoned call


@dataclass(eq=False, slots=True)
class _Call:
    run: Callable[[], Any]
    release: Callable[[Any], object] | None = None  # for a result whose caller is gone
    future: Future[Any] = field(default_factory=Future)
    started: bool = False
    given_up: bool = False  # the caller no longer waits
    replaced: bool = False  # a spare thread replaces the thread of this call


class ThreadGroup:
    """Runs at most `size` calls at a time, in their order. Daemon threads, started on demand.

    A call whose caller stopped waiting is abandoned: its thread stays blocked until the call
    returns, and a spare thread replaces it. When all spare threads are in use, further calls wait,
    each until its own deadline.
    """

    def __init__(self, name: str, *, size: int = 1) -> None:
        self._name = name
        self._capacity = size
        self._most = size + SPARE_THREADS
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = 0
        self._idle = 0  # threads that wait for a call, minus calls that wait for a thread

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call without a deadline and return its result. Raises what it raises.

        Cancelling the caller abandons the call.
        """
        result: T = await self._run_call(_Call(_bind_context(function, *args, **kwargs)))
        return result

    async def run_within(
        self, seconds: float, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, with a deadline in seconds that includes the wait for a free thread.

        Raises TimeoutError.
        """
        async with asyncio.timeout(seconds):
            return await self.run(function, *args, **kwargs)

    async def acquire_within(
        self,
        seconds: float,
        acquire: Callable[P, T],
        release: Callable[[T], object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `run_within`, for a call whose result has to be released, such as an open file.

        If the caller no longer waits when the call returns, `release` is called with the result, in
        a thread of the group.
        """
        async with asyncio.timeout(seconds):
            call = _Call(_bind_context(acquire, *args, **kwargs), release=release)
            result: T = await self._run_call(call)
            return result

    def close(self) -> None:
        """End each thread once it is idle. Does not wait. A later call starts a new thread."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._queue.put(None)

    async def _run_call(self, call: _Call) -> Any:
        self._submit_call(call)
        try:
            return await asyncio.wrap_future(call.future)
        except BaseException:
            self._abandon_call(call)
            raise

    def _submit_call(self, call: _Call) -> None:
        with self._lock:
            self._idle -= 1
            self._start_thread_if_needed()
        self._queue.put(call)

    def _start_thread_if_needed(self) -> None:
        """Call it with the lock held."""
        if self._idle < 0 and self._threads < self._capacity:
            self._threads += 1
            self._idle += 1
            threading.Thread(target=self._serve_calls, name=self._name, daemon=True).start()

    def _abandon_call(self, call: _Call) -> None:
        """Give up a call. If it is running, its thread stays blocked and a spare one may start."""
        call.future.cancel()  # has no effect once it has started
        with self._lock:
            call.given_up = True
            has_ended = call.future.done()
            if call.started and not has_ended and self._capacity < self._most:
                call.replaced = True
                self._capacity += 1
                self._start_thread_if_needed()
        if has_ended and call.release and _has_result(call.future):
            self._submit_call(_Call(partial(call.release, call.future.result())))

    def _serve_calls(self) -> None:
        while (call := self._queue.get()) is not None:
            with self._lock:
                call.started = call.future.set_running_or_notify_cancel()
            if call.started:
                self._carry_out(call)
            with self._lock:
                self._idle += 1
                if call.replaced:
                    self._capacity -= 1
                    break
        with self._lock:
            self._threads -= 1
            self._idle -= 1
            self._start_thread_if_needed()

    def _carry_out(self, call: _Call) -> None:
        try:
            result = call_for_future(call.run)
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            call.future.set_exception(error)
            return
        with self._lock:
            is_wanted = not call.given_up
            if is_wanted:
                call.future.set_result(result)
        if not is_wanted:
            _release_result(call, result)


def call_for_future(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function whose outcome is for a future. Raises what it raises.

    StopIteration becomes RuntimeError: a future of asyncio refuses it, and whoever waits would wait
    for ever.
    """
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the call raised StopIteration") from error


def _bind_context(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Return the call of a function, in the context variables of the caller."""
    return partial(contextvars.copy_context().run, partial(function, *args, **kwargs))


def _has_result(future: Future[Any]) -> bool:
    return not future.cancelled() and future.exception() is None


def _release_result(call: _Call, result: object) -> None:
    try:
        if call.release:
            call.release(result)
    except Exception:
        log.exception("the result of an abandoned call cannot be released")
    call.future.set_result(None)
