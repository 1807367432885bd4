"""Limits of connections: their number, and the time that each may take for a request.

uvicorn limits neither: its keep-alive timer ends with the first byte, and its concurrency limit
applies to complete headers. A slow client could hold a connection and its descriptor forever.
"""

import asyncio
import logging
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 1000  # at most, where the system allows enough open files
SHARE = 4  # of the open files that the system allows, one in so many may be a connection
FEWEST = 16  # connections, however few files may be open
ACCEPTED_AT_ONCE = 16  # connections accepted before the first of them is judged
WAITING = 256  # connections that wait in the kernel to be accepted

TICK_S = 1.0  # seconds between two looks at the connections
# Seconds for a whole header, since the connection began or the last answer was complete
HEADER_S = 10.0
BODY_S = 20.0  # seconds for a body, and one more for each `BODY_RATE` bytes of it that have come
BODY_RATE = 2_000  # bytes a second
LEFTOVER_S = 10.0  # seconds for the rest of a body that was answered before it was complete
SEND_S = 300.0  # seconds in which a client must take something of its answer; a player that is paused takes nothing

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

log = logging.getLogger(__name__)


def connection_limit(files: int) -> int:
    """Return the connection limit for a limit of open files; transcription needs the others."""
    return min(CONNECTIONS, max(FEWEST, files // SHARE))


class LimitedConnection(H11Protocol):
    """HTTP/1.1 with deadlines. `limit` is set on a subclass, since uvicorn creates the instances.

    At the limit, a new client replaces an idle connection of the peer with the most idle ones, so
    holding connections open does not lock others out.
    """

    limit = CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting_since = 0.0  # for a header; seconds of the loop's clock
        self._received = 0  # bytes of the request under way
        self._body_s = 0.0  # seconds that its body has taken, those aside in which it was not read
        self._unsent = 0  # bytes in the transport's buffer at the last look
        self._unsent_s = 0.0  # seconds for which none of them was taken
        self._tick: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress: no complete header was received."""
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    # --- what asyncio and uvicorn call

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._tick = self.loop.call_later(TICK_S, self._check)
        if len(self.connections) > self.limit:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_checking()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._waiting_since = self.loop.time()
        self._received, self._body_s = 0, 0.0
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_checking()  # its own protocol pings the client
        super().handle_websocket_upgrade(event)

    # --- limits

    def _make_room(self) -> None:
        """Close an idle connection; if there is none, refuse this one."""
        others = (
            one
            for one in self.connections
            if isinstance(one, LimitedConnection) and one is not self
        )
        idle = [one for one in others if one.is_idle and not one.transport.is_closing()]
        log.warning(
            "all %d connections are in use; an idle one is closed",
            self.limit,
        )
        if not idle:
            self._end_connection(_TOO_MANY)
            return
        held = Counter(one.peer for one in idle)
        oldest = min(idle, key=lambda one: (-held[one.peer], one._waiting_since))
        oldest.transport.abort()

    def _check(self) -> None:
        self._tick = None
        if self.transport.is_closing():
            self._check_sending()
        elif self.is_idle:
            if self.loop.time() - self._waiting_since > HEADER_S:
                self._end_connection(_TOO_SLOW)
        else:
            self._check_body()
            self._check_sending()
        if self in self.connections:
            self._tick = self.loop.call_later(TICK_S, self._check)

    def _check_body(self) -> None:
        if self.conn.their_state is not h11.SEND_BODY or self.flow.read_paused:
            return
        self._body_s += TICK_S
        answered = self.cycle.response_complete
        allowed = LEFTOVER_S if answered else BODY_S + self._received / BODY_RATE
        if self._body_s > allowed:
            self._end_connection(b"" if self.cycle.response_started else _TOO_SLOW)

    def _check_sending(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._unsent_s = self._unsent_s + TICK_S if unsent and unsent == self._unsent else 0.0
        self._unsent = unsent
        if self._unsent_s > SEND_S:
            self.transport.abort()

    def _end_connection(self, answer: bytes) -> None:
        """Write a final response, if given, and close the connection."""
        if answer:
            self.transport.write(answer)
        self.transport.close()

    def _stop_checking(self) -> None:
        if self._tick:
            self._tick.cancel()
            self._tick = None
