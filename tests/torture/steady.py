"""Steady work: a file every few tenths of a second, and the times at which transcripts appear."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests.torture.place import Place

EVERY_S = 0.25  # seconds between two files
BEHIND = 8  # files that may wait; no more are dropped until fewer do


class SteadyWork:
    """Drops files in a thread. `times`: when each transcript appeared, in monotonic seconds."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self._place = place
        self._dice = dice
        self._stopped = threading.Event()
        self._may_drop = threading.Event()
        self._may_drop.set()
        self._seen: set[str] = set()
        self._dropped = 0
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._work, name="steady work")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    @contextmanager
    def no_new_files(self) -> Iterator[None]:
        """Drop none inside: the inbox is away."""
        self._may_drop.clear()
        time.sleep(EVERY_S)  # one that is being written is there after it
        try:
            yield
        finally:
            self._may_drop.set()

    def longest_gap(self, transcripts: int) -> float:
        """Wait for so many more transcripts. Returns the longest time without one, in seconds."""
        began, first = time.monotonic(), len(self.times)
        self._place.until(lambda: len(self.times) >= first + transcripts, "work to go on")
        points = [began, *self.times[first : first + transcripts]]
        return max(after - before for before, after in pairwise(points))

    def _work(self) -> None:
        next_drop = time.monotonic()
        while not self._stopped.wait(0.02):
            self._look()
            now = time.monotonic()
            behind = self._dropped - len(self._seen)
            if self._may_drop.is_set() and now >= next_drop and behind < BEHIND:
                name = f"steady-{self._dropped}.wav"
                self._place.drop_script(name, chunks=1, dice=self._dice)
                self._dropped += 1
                next_drop = now + EVERY_S

    def _look(self) -> None:
        names = {path.name for path in self._place.outbox.glob("steady-*.txt")}
        self.times += [time.monotonic()] * len(names - self._seen)
        self._seen |= names


@contextmanager
def steady_work(place: Place, dice: random.Random) -> Iterator[SteadyWork]:
    place.outbox.mkdir(parents=True, exist_ok=True)
    work = SteadyWork(place, dice)
    work.start()
    try:
        yield work
    finally:
        work.stop()
