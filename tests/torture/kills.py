"""kill -9 at random moments, and the signals that ask to leave."""

import random
import signal
import time
from collections.abc import Callable

from speakeasyd.testing import FaultScript
from tests.torture.place import Place
from tests.torture.scenario import Run, Scenario

BACKLOG = 3  # files that are always there to be done
CHUNKS = 12  # a file
PACE = FaultScript(chunk_s=0.05)
JITTER_S = 0.3


def a_job_is_under_way(place: Place) -> None:
    place.until(lambda: "processing" in place.statuses().values(), "a job in work")


def a_chunk_is_safe(place: Place) -> None:
    before = place.progress()
    place.until(lambda: place.progress() > before, "a chunk")


def a_transcript_is_out(place: Place) -> None:
    before = place.unfinished()
    place.until(lambda: place.unfinished() < before, "a transcript")


def at_once(_place: Place) -> None:
    """While the daemon starts: it takes about a second."""
    time.sleep(JITTER_S)


MOMENTS: tuple[Callable[[Place], None], ...] = (
    at_once,
    a_job_is_under_way,
    a_chunk_is_safe,
    a_transcript_is_out,
)


def feed(place: Place, dice: random.Random) -> None:
    for _ in range(BACKLOG - place.unfinished()):
        place.drop_script(f"{len(place.texts)}.wav", chunks=CHUNKS, dice=dice)


def kill_daemon(run: Run) -> None:
    with run.place() as place:
        place.script(PACE)
        feed(place, run.dice)
        place.start()
        a_chunk_is_safe(place)
        for _ in run.times(200, quick=2):
            feed(place, run.dice)
            moment = run.dice.choice(MOMENTS)
            moment(place)
            time.sleep(run.dice.uniform(0, JITTER_S))
            place.kill_daemon()
            run.judge(place, ended=False)
            feed(place, run.dice)
            if run.dice.random() < len(MOMENTS[1:]) / len(MOMENTS):
                with run.readiness(place):
                    place.start()
            else:
                place.start()
        place.wait_for_end()
        place.stop()


def kill_worker(run: Run) -> None:
    with run.place() as place:
        place.script(PACE)
        place.start()
        for _ in run.times(200, quick=2):
            feed(place, run.dice)
            run.dice.choice(MOMENTS[1:])(place)
            feed(place, run.dice)
            time.sleep(run.dice.uniform(0, JITTER_S))
            feed(place, run.dice)
            with run.readiness(place):
                place.until(place.kill_worker, "a worker")
        place.wait_for_end()
        place.stop()


def ask_to_leave(run: Run, *, signals: tuple[signal.Signals, ...]) -> None:
    """In mid-work. What is in flight is finished, or given back: nothing that is safe is done again."""
    with run.place() as place:
        place.script(FaultScript(chunk_s=0.1))
        for _ in run.times(10, quick=1):
            feed(place, run.dice)
            place.start()
            assert place.daemon
            run.dice.choice(MOMENTS[1:])(place)
            time.sleep(run.dice.uniform(0, JITTER_S))
            for number in signals:
                place.daemon.send_signal(number)
                time.sleep(run.dice.uniform(0, 0.1))
            status = place.daemon.wait(timeout=30)
            if status not in {0, *(-number for number in signals[1:])}:
                run.complain(f"the daemon left with {status}")
            place.take_stock()
            run.judge(place, ended=False)
            if stuck := place.rows("SELECT path FROM jobs WHERE status = 'processing'"):
                run.complain(f"left behind as processing: {[row['path'] for row in stuck]}")
        place.start()
        place.wait_for_end()
        place.stop()


SCENARIOS = (
    Scenario("kill-daemon", "`kill -9` of the daemon, scripted engine", kill_daemon, in_quick=True),
    Scenario("kill-worker", "`kill -9` of the worker, scripted engine", kill_worker, in_quick=True),
    Scenario(
        "term", "SIGTERM during work", lambda run: ask_to_leave(run, signals=(signal.SIGTERM,))
    ),
    Scenario(
        "term-twice",
        "SIGTERM twice during work",
        lambda run: ask_to_leave(run, signals=(signal.SIGTERM,) * 2),
    ),
    Scenario(
        "ctrl-c", "Ctrl-C during work", lambda run: ask_to_leave(run, signals=(signal.SIGINT,))
    ),
)
