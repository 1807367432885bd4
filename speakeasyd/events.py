"""The event hub: publishes every change of state after its transaction is committed."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import Payload

BACKLOG = 1000  # events that a subscriber may lag behind before it is dropped


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state. Its data is the payload of its kind, as `event_payloads.py` defines it.

    Events of earlier versions, read from the ledger, may have fewer fields.
    """

    kind: EventKind
    at: str  # UTC, ISO 8601
    seq: int | None = None  # number of its row in the ledger; None for events that are not stored
    job_id: int | None = None
    data: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, payload: Payload, *, at: str, job_id: int | None = None) -> "Event":
        """Return an event that has just happened."""
        return cls(payload.event_kind, at, job_id=job_id, data=payload.to_data())


class Subscription:
    """An async iterator of events.

    Iteration ends when the subscriber lags more than `backlog` events behind; `lagged` is then
    True. `backlog` None: the queue is unbounded.
    """

    def __init__(self, backlog: int | None) -> None:
        self._backlog = backlog
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.lagged = False

    def offer_event(self, event: Event) -> None:
        """Queue an event. Drops the subscriber if its queue is full (backpressure)."""
        if self.lagged:
            return
        if self._backlog is not None and self._queue.qsize() >= self._backlog:
            self.lagged = True
            self._queue.put_nowait(None)
        else:
            self._queue.put_nowait(event)

    def take_waiting(self) -> list[Event]:
        """Return the queued events without waiting. The list is empty if there are none."""
        return [event for _ in range(self._queue.qsize()) if (event := self._queue.get_nowait())]

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event


class EventHub:
    """Publish/subscribe in the daemon. Not thread-safe: call it on the main loop only."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def publish(self, *events: Event) -> None:
        """Queue the events for every subscriber. Does not wait."""
        for subscription in self._subscriptions:
            for event in events:
                subscription.offer_event(event)

    @contextmanager
    def subscribe(self, *, backlog: int | None = BACKLOG) -> Iterator[Subscription]:
        """Subscribe for the duration of the `with` block.

        `backlog`: the number of events that the subscriber may lag behind. None: no limit, for
        parts of the daemon, which must not miss an event.
        """
        subscription = Subscription(backlog)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
