"""The event hub: every change of state, told once it is durable."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

BACKLOG = 1000  # events a subscriber may lag behind before it is dropped


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state. `kind` is a dotted word such as `job.completed`, `worker.loaded`, `queue.paused`."""

    kind: str
    at: str  # UTC, ISO 8601
    seq: int | None = None  # its row in the ledger; None for passing news that no ledger keeps
    job_id: int | None = None
    data: Mapping[str, object] = field(default_factory=dict)


class Subscription:
    """An async iterator of events. Ends when the subscriber lags too far behind; `lagged` then says so."""

    def __init__(self, backlog: int | None) -> None:
        self._backlog = backlog
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.lagged = False

    def offer_event(self, event: Event) -> None:
        if self.lagged:
            return
        if self._backlog is not None and self._queue.qsize() >= self._backlog:
            self.lagged = True
            self._queue.put_nowait(None)
        else:
            self._queue.put_nowait(event)

    def take_waiting(self) -> list[Event]:
        """Those that are there already, taken without waiting."""
        return [event for _ in range(self._queue.qsize()) if (event := self._queue.get_nowait())]

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event


class EventHub:
    """Fans events out to subscribers. Lives on the main loop: call it there only."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def publish(self, *events: Event) -> None:
        for subscription in self._subscriptions:
            for event in events:
                subscription.offer_event(event)

    @contextmanager
    def subscribe(self, *, backlog: int | None = BACKLOG) -> Iterator[Subscription]:
        """`backlog`: events to lag behind at most; None for a part of the daemon, which must miss nothing."""
        subscription = Subscription(backlog)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
