"""The files of one inbox that have been noticed and are not in the ledger yet. Lives on the main loop, in memory only:
a scan finds again what a restart forgets."""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from speakeasyd.domain import debounce
from speakeasyd.domain.debounce import (
    AccessProblem,
    DebounceState,
    Decision,
    Forget,
    GiveUp,
    Observation,
    OpenFile,
    Settled,
    WaitUntil,
)

NOT_DUE = float("inf")


@dataclass(slots=True)
class Arrival:
    stillness: DebounceState
    due: float  # monotonic seconds of the next look; NOT_DUE while one is under way, and when it is taken
    announced: bool  # an event told of it, or none could be expected to
    hint: bool = False  # closed or moved in since the last look
    taken: bool = False  # handed on, to be identified; not looked at meanwhile
    stirred: bool = False  # an event came while it was taken


class Arrivals:
    """Times are monotonic seconds, paths relative to the inbox."""

    def __init__(self, *, settle_s: float, empty_s: float) -> None:
        self._settle_s = settle_s
        self._empty_s = empty_s
        self._by_path: dict[bytes, Arrival] = {}
        self.missed = False  # a file settled that events should have told of and did not
        self._queue: list[
            tuple[float, bytes]
        ] = []  # a heap; an entry that is not its arrival's `due` is void

    def notice_file(self, path: bytes, now: float, *, announced: bool, hint: bool = False) -> None:
        """A scan or an event found it: look at it at once, unless a scan tells what is known."""
        arrival = self._by_path.get(path)
        if arrival is None:
            self._by_path[path] = Arrival(debounce.begin_debounce(now), now, announced, hint)
            heapq.heappush(self._queue, (now, path))
        elif announced:
            arrival.announced = True
            if arrival.taken:
                arrival.stirred = True
            elif hint:
                arrival.hint = True
                self._schedule_look(path, arrival, now)

    @contextmanager
    def take_due(self, now: float, limit: int) -> Iterator[list[bytes]]:
        """Up to `limit` files that are to be looked at now.

        What is found is told to `record_observation` inside the `with`.

        A file of which nothing was told is put back, however the block ends: no exception makes one forgotten.
        """
        paths = self._take_due(now, limit)
        try:
            yield paths
        finally:
            for path in paths:
                self._put_back(path, now)

    def restore_file(self, path: bytes, now: float) -> None:
        """A file that was taken could not be handed on: it is looked at again."""
        if arrival := self._by_path.get(path):
            arrival.taken = False
            self._put_back(path, now)

    def _put_back(self, path: bytes, now: float) -> None:
        arrival = self._by_path.get(path)
        if arrival and arrival.due == NOT_DUE and not arrival.taken:
            self._schedule_look(path, arrival, now + debounce.LOOK_AGAIN_S)

    def _take_due(self, now: float, limit: int) -> list[bytes]:
        paths: list[bytes] = []
        while self._queue and self._queue[0][0] <= now and len(paths) < limit:
            due, path = heapq.heappop(self._queue)
            arrival = self._by_path.get(path)
            if arrival and arrival.due == due:
                arrival.due = NOT_DUE
                paths.append(path)
        return paths

    def record_observation(
        self, path: bytes, found: Observation | AccessProblem | OpenFile, now: float
    ) -> Decision:
        """What a look found, or why a taken file could not be identified. It is taken if it settled or is given up."""
        arrival = self._by_path.get(path)
        if arrival is None:
            return Forget()
        arrival.stillness, decision = debounce.update_debounce(
            arrival.stillness,
            found,
            now=now,
            hint=arrival.hint,
            settle_s=self._settle_s,
            empty_s=self._empty_s,
        )
        stirred = arrival.stirred  # its writer may have closed it since the system was asked
        arrival.hint = arrival.taken = arrival.stirred = False
        match decision:
            case WaitUntil(until=until):
                self._schedule_look(
                    path, arrival, min(until, now + debounce.LOOK_AGAIN_S) if stirred else until
                )
            case Forget():
                del self._by_path[path]
            case Settled() | GiveUp():
                arrival.taken, arrival.due = True, NOT_DUE
                self.missed |= not arrival.announced
        return decision

    def mark_admitted(self, path: bytes, now: float) -> None:
        """It is in the ledger. What stirred it meanwhile makes it a new arrival."""
        arrival = self._by_path.pop(path, None)
        if arrival and arrival.stirred:
            self.notice_file(path, now, announced=True)

    @property
    def next_due(self) -> float | None:
        """When to look next; None while nothing waits."""
        return self._queue[0][0] if self._queue else None

    def list_waiting(self, now: float) -> Iterator[tuple[bytes, DebounceState]]:
        """Those that have not settled for long, or could not be read when they had."""
        for path, arrival in self._by_path.items():
            still = arrival.stillness
            if (not arrival.taken or still.trouble) and still.waits_long(now, self._settle_s):
                yield path, still

    def is_idle(self, now: float) -> bool:
        """Whether nothing waits but what is stuck."""
        if any(arrival.taken for arrival in self._by_path.values()):
            return False
        return self.count_stuck(now) == len(self._by_path)

    def unread(self) -> Iterator[tuple[bytes, str]]:
        """All that are not in the ledger, and why not, for people."""
        for path, arrival in self._by_path.items():
            yield path, arrival.stillness.reason

    def count_stuck(self, now: float) -> int:
        """How many have not let themselves be read for long."""
        return sum(still.trouble is not None for _, still in self.list_waiting(now))

    def _schedule_look(self, path: bytes, arrival: Arrival, when: float) -> None:
        arrival.due = when
        heapq.heappush(self._queue, (when, path))
