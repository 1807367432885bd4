"""Broadcasts events to WebSocket clients: encoded once, and never blocked by a slow client."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from speakeasyd.events import Event, EventHub

GATHER_S = 0.03  # seconds in which events are collected into one message
BACKLOG = 256  # messages that a client may lag behind


@dataclass(frozen=True, slots=True)
class EventMessage:
    """Events that are sent together."""

    events: tuple[Event, ...]
    text: str

    @property
    def last(self) -> int:
        """The highest event number; 0 if none has a number."""
        return max((event.seq or 0 for event in self.events), default=0)

    def without_seen(self, seq: int) -> "EventMessage | None":
        """Return the message without events up to `seq`; None if nothing is left."""
        new = tuple(event for event in self.events if event.seq is None or event.seq > seq)
        return self if len(new) == len(self.events) else build_message(new) if new else None


def build_message(events: Sequence[Event]) -> EventMessage:
    return EventMessage(
        tuple(events),
        encode_json({"type": "events", "events": [asdict(event) for event in events]}),
    )


def encode_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


class LiveClient:
    """The queue of one client. `None` after the last message: the client was too slow and is dropped."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[EventMessage | None] = asyncio.Queue()

    def offer_message(self, message: EventMessage) -> bool:
        """Queue a message. Returns whether there was room."""
        room = self._queue.qsize() < BACKLOG
        self._queue.put_nowait(message if room else None)
        return room

    async def next_message(self) -> EventMessage | None:
        return await self._queue.get()


class LiveBroadcast:
    """Passes events of the hub to the clients."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._clients: set[LiveClient] = set()

    @property
    def clients(self) -> int:
        return len(self._clients)

    async def run(self) -> None:
        """Broadcast until cancelled."""
        with self._hub.subscribe(backlog=None) as subscription:
            async for first in subscription:
                self._send_events([first, *subscription.take_waiting()])
                await asyncio.sleep(GATHER_S)

    @contextmanager
    def register_client(self) -> Iterator[LiveClient]:
        client = LiveClient()
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)

    def _send_events(self, events: Sequence[Event]) -> None:
        if self._clients:
            together = build_message(events)
            self._clients -= {
                client for client in self._clients if not client.offer_message(together)
            }
