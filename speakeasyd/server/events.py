"""The WebSocket with live events."""

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.websockets import WebSocket, WebSocketDisconnect

from speakeasyd.ledger.event_log import load_events_after
from speakeasyd.server.broadcast import EventMessage, LiveClient, build_message, encode_json
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.status import build_overview

router = APIRouter()

# Missed events that are sent; a client that missed more gets a snapshot
MISSED_MOST = 5000
SEND_S = 10.0  # seconds for a client to take a message
TOO_SLOW = 1013  # "try again later": with `after`, it misses nothing


@router.websocket("/events")
async def stream_events(
    socket: WebSocket, parts: Lent, after: Annotated[int | None, Query(ge=0, lt=2**63)] = None
) -> None:
    """Send a snapshot, or with `after` the events since that number; then live events."""
    await socket.accept()
    with parts.live.register_client() as client, suppress(WebSocketDisconnect):
        telling = asyncio.create_task(_send_events(socket, parts, client, after))
        listening = asyncio.create_task(_wait_for_disconnect(socket))
        done, rest = await asyncio.wait({telling, listening}, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            await task


async def _wait_for_disconnect(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _send_events(
    socket: WebSocket, parts: ServerContext, client: LiveClient, after: int | None
) -> None:
    try:
        seq = await _send_snapshot(socket, parts, after)
        while (news := await client.next_message()) is not None:
            if new := news.without_seen(seq):
                await _send_text(socket, new.text)
    except TimeoutError:
        pass
    await socket.close(TOO_SLOW, "too slow")


async def _send_snapshot(socket: WebSocket, parts: ServerContext, after: int | None) -> int:
    """Send missed events or a snapshot. Returns the number of the last event sent."""
    missed = await _load_missed(parts, after) if after is not None else None
    if missed is None:
        snapshot = await build_overview(parts)
        await _send_text(
            socket, encode_json({"type": "snapshot", "seq": snapshot["seq"], "status": snapshot})
        )
        return int(snapshot["seq"])
    await _send_text(socket, missed.text)
    return max(after or 0, missed.last)


async def _load_missed(parts: ServerContext, after: int) -> EventMessage | None:
    """Return the missed events; None if some were removed, or there are too many."""
    missed = await parts.ledger.clients.read(load_events_after, after, limit=MISSED_MOST)
    return None if missed is None else build_message(missed)


async def _send_text(socket: WebSocket, text: str) -> None:
    async with asyncio.timeout(SEND_S):
        await socket.send_text(text)
