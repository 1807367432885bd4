"""Sends an open file or a range of it; the path is not looked up again after the checks."""

import logging
import os
import re
from email.utils import formatdate
from io import FileIO

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from speakeasyd.server.blocking_calls import BlockingCalls, Transfer
from speakeasyd.server.error_answers import RequestRefused
from speakeasyd.server.guard import IS_HEAD

BLOCK = 1 << 16  # bytes

log = logging.getLogger(__name__)

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})")


class OpenFileResponse(Response):
    """Sends and closes the file: 206 for one range; the whole file for several or invalid ranges.

    If the file cannot be read to its end, the answer stays incomplete: the connection is closed.
    """

    def __init__(
        self, file: FileIO, state: os.stat_result, calls: BlockingCalls, *, media_type: str
    ) -> None:
        """`state`: of the open file."""
        super().__init__(media_type=media_type)
        self._file = file
        self._calls = calls
        self._size = state.st_size
        self.headers["accept-ranges"] = "bytes"
        self.headers["last-modified"] = formatdate(state.st_mtime, usegmt=True)
        self.headers["etag"] = f'"{state.st_mtime_ns:x}-{state.st_size:x}"'

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            start, end = self._choose_range(Headers(scope=scope))
            self.headers["content-length"] = str(max(0, end - start))
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if not scope.get(IS_HEAD):
                await self._send_bytes(start, end, send)
            await send({"type": "http.response.body", "body": b""})
        except (OSError, RequestRefused) as error:
            log.warning("the audio cannot be read to its end: %s", error)
        finally:
            await self._calls.release(self._file.close)

    async def _send_bytes(self, start: int, end: int, send: Send) -> None:
        """Send a range. Raises OSError if the file became shorter."""
        transfer = Transfer(self._calls)
        while start < end:
            size = min(BLOCK, end - start)
            block = await transfer.run(size, self._read_at, start, size)
            if not block:
                raise OSError("the file became shorter while it was sent")
            start += len(block)
            await send({"type": "http.response.body", "body": block, "more_body": True})

    def _read_at(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def _choose_range(self, headers: Headers) -> tuple[int, int]:
        """Return the first byte and the one after the last. Sets the status."""
        wanted = _RANGE.fullmatch(headers.get("range", "").strip())
        if_range = headers.get("if-range")
        unchanged = if_range is None or if_range in {
            self.headers["etag"],
            self.headers["last-modified"],
        }
        if not wanted or not any(wanted.groups()) or not unchanged:
            return 0, self._size
        first, last = wanted.groups()
        start = int(first) if first else max(0, self._size - int(last))
        end = min(self._size, int(last) + 1) if first and last else self._size
        if first and last and int(last) < start:
            return 0, self._size  # invalid range
        if start >= self._size or start == end:
            self.status_code = 416
            self.headers["content-range"] = f"bytes */{self._size}"
            return 0, 0
        self.status_code = 206
        self.headers["content-range"] = f"bytes {start}-{end - 1}/{self._size}"
        return start, end
