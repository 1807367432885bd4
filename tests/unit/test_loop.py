"""Calls from threads into the event loop.

Warnings are errors here, so a coroutine that is never awaited fails a test.
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
from tests.conftest import PATIENCE_S, wait_until


def run_in_thread(call: Callable[[], object]) -> None:
    """Run the call in a new thread and raise its exception here."""
    outcome: Future[object] = Future()

    def call_and_store() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call_and_store)
    thread.start()
    thread.join(PATIENCE_S)
    outcome.result(0)


class Recorder:
    def __init__(self) -> None:
        self.calls: list[object] = []

    async def record(self, what: object) -> None:
        assert asyncio.get_running_loop()
        await asyncio.sleep(0)
        self.calls.append(what)

    async def fail(self, what: object) -> None:
        raise ValueError(f"a defect with {what}")


@pytest.fixture(autouse=True)
def check_no_warnings() -> object:
    yield
    gc.collect()  # unawaited coroutines and lost exceptions are reported here


async def test_calls_from_a_thread_run_on_the_loop_in_their_order() -> None:
    recorder, main = Recorder(), MainLoop(asyncio.get_running_loop())
    run_in_thread(
        lambda: [main.schedule_from_thread(recorder.record, number) for number in range(1000)]
    )
    await wait_until(lambda: len(recorder.calls) == 1000, "all calls")
    assert recorder.calls == list(range(1000))
    assert main.dropped == 0


async def test_calls_from_many_threads() -> None:
    recorder, main = Recorder(), MainLoop(asyncio.get_running_loop())
    threads = [
        threading.Thread(
            target=lambda name=name: [
                main.schedule_from_thread(recorder.record, (name, n)) for n in range(100)
            ]
        )
        for name in range(16)
    ]
    for thread in threads:
        thread.start()
    await wait_until(lambda: len(recorder.calls) == 1600, "all calls")
    for name in range(16):
        assert [n for by, n in recorder.calls if by == name] == list(range(100))  # type: ignore[misc]


async def test_calls_from_an_observer_thread(tmp_path: Path) -> None:
    recorder, main = Recorder(), MainLoop(asyncio.get_running_loop())

    class Handler(FileSystemEventHandler):
        def on_created(self, event: FileSystemEvent) -> None:
            main.schedule_from_thread(recorder.record, event.src_path)

    observer = Observer()
    observer.schedule(Handler(), str(tmp_path))
    observer.start()
    try:
        (tmp_path / "new.wav").touch()
        await wait_until(lambda: str(tmp_path / "new.wav") in recorder.calls, "the event")
    finally:
        observer.stop()
        observer.join(PATIENCE_S)


async def test_an_audio_callback_gets_no_exception_and_does_not_wait() -> None:
    """Native code calls it, and an exception would end the recording."""
    main, blocked = MainLoop(asyncio.get_running_loop()), threading.Event()

    def callback() -> None:
        main.schedule_from_thread(Recorder().fail, "a block of samples")
        blocked.set()

    thread = threading.Thread(target=callback)
    thread.start()
    assert blocked.wait(PATIENCE_S)  # the loop has not run, so the callback did not wait
    thread.join(PATIENCE_S)
    await asyncio.sleep(0)


async def test_what_a_coroutine_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    main = MainLoop(asyncio.get_running_loop())
    run_in_thread(lambda: main.schedule_from_thread(Recorder().fail, "the third file"))
    await wait_until(lambda: caplog.records, "a log record")
    assert "Recorder.fail failed" in caplog.text
    assert "a defect with the third file" in caplog.text


async def test_a_cancelled_call_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    main = MainLoop(asyncio.get_running_loop())
    begun = asyncio.Event()

    async def wait_for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    run_in_thread(lambda: main.schedule_from_thread(wait_for_ever))
    await begun.wait()
    task = next(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
    task.cancel()
    await asyncio.wait({task})
    run_in_thread(lambda: main.schedule_from_thread(wait_for_ever))  # and before its start
    await asyncio.sleep(0)
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not caplog.records


def test_calls_before_the_loop_starts(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    assert_dropped(MainLoop(loop), caplog)
    loop.close()


def test_calls_after_the_loop_has_stopped(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    assert_dropped(MainLoop(loop), caplog)
    loop.close()


def test_calls_after_the_loop_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert_dropped(MainLoop(loop), caplog)


def test_a_loop_closed_between_check_and_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class ClosingLoop(asyncio.SelectorEventLoop):
        def is_running(self) -> bool:
            return self.is_closed()

    loop = ClosingLoop()
    loop.close()
    assert_dropped(MainLoop(loop), caplog)


def assert_dropped(main: MainLoop, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    run_in_thread(
        lambda: [
            main.schedule_from_thread(recorder.record, 1),
            main.schedule_from_thread(recorder.record, 2),
        ]
    )
    assert main.dropped == 2
    assert recorder.calls == []
    assert "no running loop for Recorder.record; dropped 2 so far" in caplog.text


@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_that_ends_during_calls(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Threads call while the loop closes. Each call is run or counted."""
    for _ in range(3):
        calls: list[int] = []
        begun: list[int] = []
        main, threads = asyncio.run(
            run_during_calls(calls, begun, over := threading.Event()), debug=debug
        )
        over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert len(begun) + main.dropped == len(calls)
        gc.collect()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def run_during_calls(
    calls: list[int], begun: list[int], over: threading.Event
) -> tuple[MainLoop, list[threading.Thread]]:
    """Return, which ends the loop, while threads still call; after at most 2 s."""
    main, hit = MainLoop(asyncio.get_running_loop()), asyncio.Event()

    async def record() -> None:
        begun.append(1)
        await asyncio.sleep(0)
        hit.set()

    def call_repeatedly() -> None:
        for _ in range(2000):
            calls.append(1)
            main.schedule_from_thread(record)
            if over.wait(0.001):
                return

    threads = [threading.Thread(target=call_repeatedly) for _ in range(4)]
    for thread in threads:
        thread.start()
    await hit.wait()
    await main.close()
    return main, threads
