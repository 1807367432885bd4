"""Sends the bytes of sources to actors, in pieces, through Ray's object store."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from io import BufferedReader
from typing import Any

from speakeasyd.domain.protocol import Task
from speakeasyd.engine.media_file import MediaFile, open_source
from speakeasyd.thread_group import ThreadGroup

PIECE_BYTES = 4 << 20
PIECES_IN_FLIGHT = 8  # of all sources together: what they take of the object store is bounded
_READERS = 4  # threads


class SourceSender:
    """Sends sources. Each piece is an argument of a call: Ray frees it when the call has ended."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = folders
        self._threads = ThreadGroup("source reader", size=_READERS)
        self._in_flight = asyncio.Semaphore(PIECES_IN_FLIGHT)

    async def send(self, actor: Any, task: Task) -> Task:
        """Send the source of a task. Returns the task with the source as the actor has it.

        The worker compares its hash, as with every source whose signature differs. Raises FileFault
        if the source is at fault, and the exceptions of the actor.
        """
        key = (task.job_id, task.token)
        path = b"%d-%s/%s" % (task.job_id, task.token.encode(), task.source.path)
        there = replace(task.source, path=path)
        media = await self._threads.run(open_source, task.source, self._folders)
        try:
            await actor.reserve_source.remote(key, there, media.size)
            await self._send_pieces(actor, key, media)
        finally:
            media.file.close()
        return replace(task, source=there)

    async def _send_pieces(self, actor: Any, key: object, media: MediaFile) -> None:
        offset = 0
        while True:
            async with self._in_flight:
                piece = await self._threads.run(_read_piece, media.file)
                if not piece:
                    return
                await actor.write_piece.remote(key, offset, piece)
            offset += len(piece)


def _read_piece(file: BufferedReader) -> bytes:
    return file.read(PIECE_BYTES)
