"""What a scenario gets, and what it leaves behind: one row of the table."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.place import Breach, Harm, Place


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` does the harm, round by round, and hands every place that it made to `Run.judge`."""

    name: str
    fault: str  # what the table calls it
    play: "Callable[[Run], None]"
    possible: Callable[[], bool] = lambda: True  # on this machine
    in_quick: bool = False  # whether a quick run has time for it


@dataclass(slots=True)
class Run:
    """One scenario under way. All chance comes from `dice`, so that a seed tells what was done."""

    name: str
    fault: str
    scratch: Path
    dice: random.Random
    quick: bool = False
    rounds: int = 0
    restarts: int = 0
    done_again: int = 0
    ready_s: list[float] = field(default_factory=list)
    still_s: list[float] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    seconds: float = 0.0

    def times(self, full: int, *, quick: int = 1) -> Iterator[int]:
        """Count the rounds."""
        for number in range(quick if self.quick else full):
            yield number
            self.rounds += 1

    @contextmanager
    def place(self, **more: Any) -> Iterator[Place]:
        """A fresh place; judged at the end, and nothing of it left running."""
        place = Place(self.scratch / f"place-{len(list(self.scratch.iterdir()))}", **more)
        try:
            yield place
            self.judge(place)
        finally:
            place.close()

    def judge(self, place: Place, *, ended: bool = True) -> None:
        self.breaches += place.broken(ended=ended)
        if ended:
            self.restarts += place.rows("SELECT count(*) FROM incidents")[0][0] + place.starts - 1
            self.done_again += place.done_again()

    @contextmanager
    def readiness(self, place: Place) -> Iterator[None]:
        """Inside, a fault is brought about. Measured is the time from then until a fresh worker's work is safe."""
        stale = {worker.pid for worker in place.workers()}
        yield
        began = time.monotonic()
        place.until(lambda: {worker.pid for worker in place.workers()} - stale, "a fresh worker")
        before = place.progress()
        place.until(lambda: place.progress() > before, "work to go on")
        self.ready_s.append(time.monotonic() - began)

    def complain(self, what: str) -> None:
        self.breaches.append(Breach("other", what))

    def harm(self, kind: Harm) -> int:
        return sum(breach.harm == kind for breach in self.breaches)

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.ready_s) if self.ready_s else None

    @property
    def longest_still_s(self) -> float | None:
        """The longest time without a new transcript, less that without an attack."""
        return max(self.still_s, default=None)

    @property
    def worst_s(self) -> float | None:
        return max(self.ready_s, default=None)
