"""Runs the HTTP server in the daemon. A port that is in use is retried; transcription continues."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from speakeasyd.config import Settings
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.recorder.recorder import Recorder
from speakeasyd.server.app import create_application
from speakeasyd.server.broadcast import LiveBroadcast
from speakeasyd.server.connections import (
    ACCEPTED_AT_ONCE,
    WAITING,
    LimitedConnection,
    connection_limit,
)
from speakeasyd.server.context import Admit, ServerContext
from speakeasyd.server.uploads import remove_stale_uploads
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from speakeasyd.system.limits import file_limit

RETRY_S = 15.0  # seconds between attempts to bind the port
HEADER_BYTES = 1 << 14  # bytes of a request's header
LEAVE_S = 2  # seconds for open answers when the daemon stops

log = logging.getLogger(__name__)


class Server(Service):
    def __init__(
        self,
        *,
        current: Callable[[], Settings],
        ledger: Ledger,
        hub: EventHub,
        pauses: Pauses,
        failures: ServiceFailures,
        pool: WorkerPool,
        recorder: Recorder,
        admit: Admit,
        is_present: Callable[[str], bool],
        under_way: UploadsUnderWay,
    ) -> None:
        super().__init__()
        self._settings = current().server
        self._parts = ServerContext(
            current=current,
            ledger=ledger,
            live=LiveBroadcast(hub),
            pauses=pauses,
            failures=failures,
            pool=pool,
            recorder=recorder,
            admit=admit,
            is_present=is_present,
            under_way=under_way,
        )
        self._complained = False
        self.address: str | None = None  # once it listens

    async def run_once(self) -> float:
        """Serve until stopped. Returns early if the port cannot be bound."""
        try:
            listener = self._open_listener()
        except OSError as error:
            if not self._complained:
                place = f"{self._settings.host}:{self._settings.port}"
                log.warning(
                    "the page and the API cannot listen on %s: %s; retrying",
                    place,
                    error.strerror,
                )
                self._complained = True
            return RETRY_S
        self.address = _format_address(listener)
        log.info("the page: %s/", self.address)
        live = asyncio.create_task(self._parts.live.run(), name="live")
        try:
            await remove_stale_uploads(self._parts)
            await self._serve_listener(listener)
        finally:
            live.cancel()
            listener.close()
            self._parts.calls.close()
        return RETRY_S

    async def _serve_listener(self, listener: socket.socket) -> None:
        limit = connection_limit(file_limit())
        config = uvicorn.Config(
            create_application(self._parts),
            http=type("Connection", (LimitedConnection,), {"limit": limit}),
            h11_max_incomplete_event_size=HEADER_BYTES,
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=1 << 16,  # clients have nothing to say
            ws_per_message_deflate=False,  # it would cost more than it saves on this machine
            timeout_graceful_shutdown=LEAVE_S,
            server_header=False,
            date_header=False,  # the application adds it
        )
        server = _Uvicorn(config)
        serving = asyncio.create_task(server.serve([listener]), name="uvicorn")
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.request_exit()
            with suppress(asyncio.CancelledError):
                await serving
            raise

    def _open_listener(self) -> socket.socket:
        """Bind the port. Raises OSError."""
        host = self._settings.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, self._settings.port), family=family, backlog=WAITING)


class _Uvicorn(uvicorn.Server):
    """uvicorn without signal handlers; the daemon has its own. Without requests, it does nothing."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._exit_requested = asyncio.Event()

    def request_exit(self) -> None:
        self.should_exit = True
        self._exit_requested.set()

    async def main_loop(self) -> None:
        await self._exit_requested.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(
                WAITING
            )  # uvicorn's `backlog` is both this and how many are accepted at once

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _format_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
