"""The daemon's components that the server uses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from speakeasyd.config import Settings
from speakeasyd.domain.job import AddedJob
from speakeasyd.domain.presets import Changes
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.recorder.recorder import Recorder
from speakeasyd.server.broadcast import LiveBroadcast
from speakeasyd.server.wrong_tokens import WrongTokens
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.pauses import Pauses

Admit = Callable[[str, Sequence[tuple[bytes, str]], Changes, bool], Awaitable[list[AddedJob]]]
"""Arguments: inbox, path and SHA-256 of each file, options, whether a client waits. All or none."""
UPLOADS_AT_ONCE = 32  # forms that are received: each has files open


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    current: Callable[[], Settings]  # the settings change while the daemon runs
    ledger: Ledger
    live: LiveBroadcast
    pauses: Pauses
    failures: ServiceFailures
    pool: WorkerPool
    recorder: Recorder
    admit: Admit
    is_present: Callable[[str], bool]  # whether an inbox is there and mounted; blocks
    wrong_tokens: WrongTokens = field(default_factory=WrongTokens)
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(UPLOADS_AT_ONCE))

    @property
    def settings(self) -> Settings:
        return self.current()

    @property
    def state(self) -> Path:
        return self.settings.state


def _get_context(connection: HTTPConnection) -> ServerContext:
    parts: ServerContext = connection.app.state.parts
    return parts


Lent = Annotated[ServerContext, Depends(_get_context)]
