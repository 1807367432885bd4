"""Calls that never return block neither their callers, other groups, nor the exit of the process."""

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from speakeasyd.thread_group import SPARE_THREADS, ThreadGroup

TEST_LIMIT_S = 300.0  # seconds; far more than any of these calls needs


async def test_a_call_returns_its_result_and_raises_its_error() -> None:
    group = ThreadGroup("test")
    assert await group.run(lambda one, two: one + two, 1, two=2) == 3
    with pytest.raises(ZeroDivisionError):
        await group.run(lambda: 1 / 0)


async def test_a_call_may_raise_anything() -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await ThreadGroup("calls").run_within(10.0, next, iter(()))


async def test_a_call_sees_the_context_of_its_caller() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("job 7")
    assert await ThreadGroup("test").run(name.get) == "job 7"


async def test_calls_run_in_order_and_one_at_a_time() -> None:
    group = ThreadGroup("test")
    ran: list[int] = []
    await asyncio.gather(*(group.run(ran.append, number) for number in range(50)))
    assert ran == list(range(50))


async def test_the_size_of_the_group_limits_parallel_calls() -> None:
    group = ThreadGroup("test", size=3)
    together = threading.Barrier(3)
    await asyncio.wait_for(
        asyncio.gather(*(group.run(together.wait) for _ in range(3))), TEST_LIMIT_S
    )


async def test_after_a_deadline_the_next_call_has_a_thread() -> None:
    group = ThreadGroup("test")
    release_resource = threading.Event()
    with pytest.raises(TimeoutError):
        await group.run_within(0.01, release_resource.wait)
    assert await asyncio.wait_for(group.run(lambda: "next"), TEST_LIMIT_S) == "next"
    release_resource.set()


async def test_calls_that_never_return_use_bounded_threads() -> None:
    group = ThreadGroup("bounded")
    release_resource = threading.Event()
    for _ in range(SPARE_THREADS + 5):
        with pytest.raises(TimeoutError):
            await group.run_within(0.01, release_resource.wait)
    threads = [thread for thread in threading.enumerate() if thread.name == "bounded"]
    assert len(threads) == SPARE_THREADS + 1
    release_resource.set()
    assert await asyncio.wait_for(group.run(lambda: "well again"), TEST_LIMIT_S) == "well again"


async def test_a_cancelled_waiting_call_is_not_run() -> None:
    group = ThreadGroup("test")
    release_resource, begun = threading.Event(), threading.Event()
    first = asyncio.create_task(group.run(release_resource.wait))
    waiting = asyncio.create_task(group.run(begun.set))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release_resource.set()
    await first
    await group.run(lambda: None)
    assert not begun.is_set()


async def test_threads_of_a_closed_group_end() -> None:
    group = ThreadGroup("closing")
    await group.run(lambda: None)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "closing"]
    group.close()
    group.close()
    await asyncio.to_thread(thread.join, TEST_LIMIT_S)
    assert not thread.is_alive()
    assert await asyncio.wait_for(group.run(lambda: "later"), TEST_LIMIT_S) == "later"


async def test_a_call_queued_behind_a_close_is_run() -> None:
    group = ThreadGroup("test")
    release_resource = threading.Event()
    first = asyncio.create_task(group.run(release_resource.wait))
    await asyncio.sleep(0)
    group.close()
    second = asyncio.create_task(group.run(lambda: "ran"))
    await asyncio.sleep(0)
    release_resource.set()
    assert await asyncio.wait_for(second, TEST_LIMIT_S) == "ran"
    await first


PROGRAM = """
import asyncio, threading
from speakeasyd.thread_group import ThreadGroup
async def main():
    try:
        await ThreadGroup("stuck").run_within(0.05, threading.Event().wait)
    except TimeoutError:
        print("left")
asyncio.run(main())
"""


def test_the_process_exits_despite_a_blocked_call() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=TEST_LIMIT_S,
        check=True,
    )
    assert ended.stdout == "left\n"


async def test_a_late_result_is_released() -> None:
    group = ThreadGroup("test")
    begun, answer, released = threading.Event(), threading.Event(), threading.Event()
    results: list[str] = []

    def acquire_resource() -> str:
        begun.set()
        answer.wait()
        return "an open file"

    def release_resource(result: str) -> None:
        results.append(result)
        released.set()

    while not begun.is_set():  # the deadline may pass before the call begins
        with pytest.raises(TimeoutError):
            await group.acquire_within(0.01, acquire_resource, release_resource)
    answer.set()
    await asyncio.wait_for(asyncio.to_thread(released.wait), TEST_LIMIT_S)
    assert results == ["an open file"]
    assert await group.acquire_within(TEST_LIMIT_S, lambda: "wanted", release_resource) == "wanted"
    assert results == ["an open file"]


async def test_a_result_for_a_cancelled_caller_is_released() -> None:
    group = ThreadGroup("test")
    returned, released = threading.Event(), threading.Event()
    caller = asyncio.create_task(
        group.acquire_within(TEST_LIMIT_S, returned.set, lambda _result: released.set())
    )
    await asyncio.sleep(0)
    returned.wait(TEST_LIMIT_S)  # the loop does not run meanwhile, so it cannot take the result
    while not group._idle:
        pass
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(asyncio.to_thread(released.wait), TEST_LIMIT_S)
