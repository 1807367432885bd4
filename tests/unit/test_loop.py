"""From real threads into the loop: nothing raised into a thread, nothing unawaited, nothing lost without a word.

Warnings are errors in this test run, so that a coroutine that was never awaited fails it.
"""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from speakeasyd.loop import MainLoop
from tests.conftest import PATIENCE_S, eventually


def in_thread(call: Callable[[], object]) -> None:
    """Run it in a thread of its own, and raise here what it raised there."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    outcome.result(0)


class Noted:
    def __init__(self) -> None:
        self.calls: list[object] = []

    async def note(self, what: object) -> None:
        assert asyncio.get_running_loop()
        await asyncio.sleep(0)
        self.calls.append(what)

    async def fail(self, what: object) -> None:
        raise ValueError(f"a defect with {what}")


@pytest.fixture(autouse=True)
def nothing_is_left() -> object:
    yield
    gc.collect()  # here an unawaited coroutine would complain, and a lost exception be reported


async def test_calls_from_a_thread_run_on_the_loop_in_their_order() -> None:
    noted, main = Noted(), MainLoop(asyncio.get_running_loop())
    in_thread(lambda: [main.schedule_from_thread(noted.note, number) for number in range(1000)])
    await eventually(lambda: len(noted.calls) == 1000, "all calls")
    assert noted.calls == list(range(1000))
    assert main.dropped == 0


async def test_many_threads_at_once() -> None:
    noted, main = Noted(), MainLoop(asyncio.get_running_loop())
    threads = [
        threading.Thread(
            target=lambda name=name: [
                main.schedule_from_thread(noted.note, (name, n)) for n in range(100)
            ]
        )
        for name in range(16)
    ]
    for thread in threads:
        thread.start()
    await eventually(lambda: len(noted.calls) == 1600, "all calls")
    for name in range(16):
        assert [n for by, n in noted.calls if by == name] == list(range(100))  # type: ignore[misc]


async def test_an_observer_thread(tmp_path: Path) -> None:
    noted, main = Noted(), MainLoop(asyncio.get_running_loop())

    class Handler(FileSystemEventHandler):
        def on_created(self, event: FileSystemEvent) -> None:
            main.schedule_from_thread(noted.note, event.src_path)

    observer = Observer()
    observer.schedule(Handler(), str(tmp_path))
    observer.start()
    try:
        (tmp_path / "new.wav").touch()
        await eventually(lambda: str(tmp_path / "new.wav") in noted.calls, "the event")
    finally:
        observer.stop()
        observer.join(PATIENCE_S)


async def test_an_audio_callback_gets_no_exception_and_does_not_wait() -> None:
    """A callback of an audio device is called by native code: an exception there would end the recording."""
    main, blocked = MainLoop(asyncio.get_running_loop()), threading.Event()

    def callback() -> None:
        main.schedule_from_thread(Noted().fail, "a block of samples")
        blocked.set()

    thread = threading.Thread(target=callback)
    thread.start()
    assert blocked.wait(PATIENCE_S)  # the loop has not run since: the callback did not wait for it
    thread.join(PATIENCE_S)
    await asyncio.sleep(0)


async def test_what_a_coroutine_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    main = MainLoop(asyncio.get_running_loop())
    in_thread(lambda: main.schedule_from_thread(Noted().fail, "the third file"))
    await eventually(lambda: caplog.records, "a log record")
    assert "Noted.fail failed" in caplog.text
    assert "a defect with the third file" in caplog.text


async def test_a_cancelled_call_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    main = MainLoop(asyncio.get_running_loop())
    begun = asyncio.Event()

    async def wait_for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    in_thread(lambda: main.schedule_from_thread(wait_for_ever))
    await begun.wait()
    task = next(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
    task.cancel()
    await asyncio.wait({task})
    in_thread(lambda: main.schedule_from_thread(wait_for_ever))  # and before it has begun
    await asyncio.sleep(0)
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not caplog.records


def test_a_loop_that_has_not_started(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    assert_dropped(MainLoop(loop), caplog)
    loop.close()


def test_a_loop_that_has_stopped(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    assert_dropped(MainLoop(loop), caplog)
    loop.close()


def test_a_loop_that_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert_dropped(MainLoop(loop), caplog)


def test_a_loop_that_is_closed_between_the_look_and_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Racing(asyncio.SelectorEventLoop):
        def is_running(self) -> bool:
            return self.is_closed()

    loop = Racing()
    loop.close()
    assert_dropped(MainLoop(loop), caplog)


def assert_dropped(main: MainLoop, caplog: pytest.LogCaptureFixture) -> None:
    noted = Noted()
    in_thread(
        lambda: [main.schedule_from_thread(noted.note, 1), main.schedule_from_thread(noted.note, 2)]
    )
    assert main.dropped == 2
    assert noted.calls == []
    assert "no running loop for Noted.note; dropped 2 so far" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_that_ends_under_fire(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Threads hand over while the loop closes: each call is run or counted, and nothing is left behind."""
    for _ in range(10):
        calls: list[int] = []
        begun: list[int] = []
        main, threads = asyncio.run(
            under_fire(calls, begun, over := threading.Event()), debug=debug
        )
        over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert len(begun) + main.dropped == len(calls)
        gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def under_fire(
    calls: list[int], begun: list[int], over: threading.Event
) -> tuple[MainLoop, list[threading.Thread]]:
    """Returns, and so ends the loop, while threads still hand over; for at most 2 s."""
    main, hit = MainLoop(asyncio.get_running_loop()), asyncio.Event()

    async def note() -> None:
        begun.append(1)
        await asyncio.sleep(0)
        hit.set()

    def fire() -> None:
        for _ in range(2000):
            calls.append(1)
            main.schedule_from_thread(note)
            if over.wait(0.001):
                return

    threads = [threading.Thread(target=fire) for _ in range(4)]
    for thread in threads:
        thread.start()
    await hit.wait()
    await main.close()
    return main, threads
