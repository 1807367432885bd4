"""Drops files steadily and records when their transcripts appear."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests.torture.daemon_under_test import DaemonUnderTest

INTERVAL_S = 0.25  # seconds between two files
MAX_WAITING = 8  # files without a transcript; at this number no more are dropped


class SteadyWork:
    """Drops files in a thread.

    `transcript_times`: when each transcript appeared, in monotonic seconds.
    """

    def __init__(self, daemon: DaemonUnderTest, rng: random.Random) -> None:
        self._daemon = daemon
        self._rng = rng
        self._stopped = threading.Event()
        self._drops_files = threading.Event()
        self._drops_files.set()
        self._seen: set[str] = set()
        self._dropped = 0
        self.transcript_times: list[float] = []
        self._thread = threading.Thread(target=self._run, name="steady work")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    @contextmanager
    def pause_drops(self) -> Iterator[None]:
        """Drop no files inside the block, in which there is no inbox."""
        self._drops_files.clear()
        time.sleep(INTERVAL_S)  # a file that is being written is complete after it
        try:
            yield
        finally:
            self._drops_files.set()

    def measure_longest_gap(self, transcripts: int) -> float:
        """Wait for more transcripts. Returns the longest time without one, in seconds."""
        began, first = time.monotonic(), len(self.transcript_times)
        self._daemon.wait_until(
            lambda: len(self.transcript_times) >= first + transcripts, "transcripts"
        )
        points = [began, *self.transcript_times[first : first + transcripts]]
        return max(after - before for before, after in pairwise(points))

    def _run(self) -> None:
        next_drop = time.monotonic()
        while not self._stopped.wait(0.02):
            self._find_transcripts()
            now = time.monotonic()
            waiting = self._dropped - len(self._seen)
            if self._drops_files.is_set() and now >= next_drop and waiting < MAX_WAITING:
                name = f"steady-{self._dropped}.wav"
                self._daemon.drop_scripted_file(name, chunks=1, rng=self._rng)
                self._dropped += 1
                next_drop = now + INTERVAL_S

    def _find_transcripts(self) -> None:
        names = {path.name for path in self._daemon.outbox.glob("steady-*.txt")}
        self.transcript_times += [time.monotonic()] * len(names - self._seen)
        self._seen |= names


@contextmanager
def steady_work(daemon: DaemonUnderTest, rng: random.Random) -> Iterator[SteadyWork]:
    daemon.outbox.mkdir(parents=True, exist_ok=True)
    work = SteadyWork(daemon, rng)
    work.start()
    try:
        yield work
    finally:
        work.stop()
