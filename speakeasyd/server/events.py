"""The WebSocket that tells every change of state as it happens."""

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.websockets import WebSocket, WebSocketDisconnect

from speakeasyd.server.live import Client, Message, encoded, message
from speakeasyd.server.parts import Lent, Parts
from speakeasyd.server.status import overview

router = APIRouter()

MISSED_MOST = 5000  # events that a client that was away is told one by one; after more it begins anew
SEND_S = 10.0  # seconds for a client to take a message
TOO_SLOW = 1013  # "try again later": with `after`, it misses nothing


@router.websocket("/events")
async def events(socket: WebSocket, parts: Lent, after: Annotated[int | None, Query(ge=0, lt=2**63)] = None) -> None:
    """A snapshot, or with `after` the events since that number; then each event, in groups."""
    await socket.accept()
    with parts.live.client() as client, suppress(WebSocketDisconnect):
        telling = asyncio.create_task(_tell(socket, parts, client, after))
        listening = asyncio.create_task(_until_it_leaves(socket))
        done, rest = await asyncio.wait({telling, listening}, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            await task


async def _until_it_leaves(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _tell(socket: WebSocket, parts: Parts, client: Client, after: int | None) -> None:
    try:
        seq = await _begin(socket, parts, after)
        while (news := await client.next()) is not None:
            if new := news.after(seq):
                await _send(socket, new.text)
    except TimeoutError:
        pass
    await socket.close(TOO_SLOW, "too slow")


async def _begin(socket: WebSocket, parts: Parts, after: int | None) -> int:
    """Bring the client up to date. Returns the number of the last event that it has."""
    missed = await _missed(parts, after) if after is not None else None
    if missed is None:
        snapshot = await overview(parts)
        await _send(socket, encoded({"type": "snapshot", "seq": snapshot["seq"], "status": snapshot}))
        return int(snapshot["seq"])
    await _send(socket, missed.text)
    return max(after or 0, missed.last)


async def _missed(parts: Parts, after: int) -> Message | None:
    """None where not all of it is known any more, or it is too much."""
    missed = await parts.ledger.clients.events_after(after, limit=MISSED_MOST)
    return None if missed is None else message(missed)


async def _send(socket: WebSocket, text: str) -> None:
    async with asyncio.timeout(SEND_S):
        await socket.send_text(text)
