"""The files of one inbox that were noticed and have no job yet.

Lives on the main loop, in memory only: after a restart, a scan finds the files again.
"""

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
    # monotonic seconds of the next observation; NOT_DUE during one, and while `taken`
    due: float
    announced: bool  # an event reported it, or no event could be expected
    hint: bool = False  # closed or moved into the inbox since the last observation
    taken: bool = False  # settled and passed on to be hashed; not observed meanwhile
    stirred: bool = False  # an event came while `taken`


class Arrivals:
    """The arrivals of one inbox. Times are monotonic seconds, paths are relative to the inbox."""

    def __init__(self, *, settle_s: float, empty_s: float) -> None:
        self._settle_s = settle_s
        self._empty_s = empty_s
        self._by_path: dict[bytes, Arrival] = {}
        self.missed = False  # a file settled that should have had an event and had none
        # a heap of due times; an entry that differs from its arrival's `due` is stale
        self._queue: list[tuple[float, bytes]] = []

    def notice_file(self, path: bytes, now: float, *, announced: bool, hint: bool = False) -> None:
        """Record a file that a scan or an event found.

        A new file is due at once, and so is a known one for which an event gave a `hint` that it is
        complete.
        """
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
        """Yield up to `limit` due files, to be observed inside the `with` block.

        Call `record_observation` for each of them in the block. A file without a call becomes due
        again, also after an exception, so that none is lost.
        """
        paths = self._take_due(now, limit)
        try:
            yield paths
        finally:
            for path in paths:
                self._put_back(path, now)

    def restore_file(self, path: bytes, now: float) -> None:
        """Make a file due again that was taken but could not be passed on."""
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
        self, path: bytes, observed: Observation | AccessProblem | OpenFile, now: float
    ) -> Decision:
        """Update the debounce of a file with an observation, or with the reason why hashing failed.

        Returns the decision. The file is taken if it has settled or is given up.
        """
        arrival = self._by_path.get(path)
        if arrival is None:
            return Forget()
        arrival.stillness, decision = debounce.update_debounce(
            arrival.stillness,
            observed,
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
        """Remove a file that is in the ledger. If an event came meanwhile, it is a new arrival."""
        arrival = self._by_path.pop(path, None)
        if arrival and arrival.stirred:
            self.notice_file(path, now, announced=True)

    @property
    def next_due(self) -> float | None:
        """Return the time of the next observation; None if nothing waits."""
        return self._queue[0][0] if self._queue else None

    def list_waiting(self, now: float) -> Iterator[tuple[bytes, DebounceState]]:
        """Yield the files that have not settled for long, or that settled but could not be read."""
        for path, arrival in self._by_path.items():
            state = arrival.stillness
            if (not arrival.taken or state.trouble) and state.waits_long(now, self._settle_s):
                yield path, state

    def is_idle(self, now: float) -> bool:
        """Return whether nothing waits except files that cannot be read."""
        if any(arrival.taken for arrival in self._by_path.values()):
            return False
        return self.count_stuck(now) == len(self._by_path)

    def unread(self) -> Iterator[tuple[bytes, str]]:
        """Yield all files that are not in the ledger, and why not, as a text for users."""
        for path, arrival in self._by_path.items():
            yield path, arrival.stillness.reason

    def count_stuck(self, now: float) -> int:
        """Return the number of files that could not be read for long."""
        return sum(state.trouble is not None for _, state in self.list_waiting(now))

    def _schedule_look(self, path: bytes, arrival: Arrival, when: float) -> None:
        arrival.due = when
        heapq.heappush(self._queue, (when, path))
