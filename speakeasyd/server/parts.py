"""What the daemon lends to the server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from speakeasyd.config import Settings
from speakeasyd.domain.job import Added
from speakeasyd.domain.presets import Changes
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.recorder.recorder import Recorder
from speakeasyd.server.live import Live
from speakeasyd.server.wrong_tokens import WrongTokens
from speakeasyd.services.failures import Failures
from speakeasyd.services.pauses import Pauses
from speakeasyd.workers.pool import Pool

Admit = Callable[[str, Sequence[tuple[bytes, str]], Changes, bool], Awaitable[list[Added]]]
"""Inbox, path and SHA-256 of each file, options, and whether somebody waits for the text. All or none."""
UPLOADS_AT_ONCE = 32  # forms that are received: each has files open


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    current: Callable[[], Settings]  # the settings change while the daemon runs
    ledger: Ledger
    live: Live
    pauses: Pauses
    failures: Failures
    pool: Pool
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


def _parts(connection: HTTPConnection) -> Parts:
    parts: Parts = connection.app.state.parts
    return parts


Lent = Annotated[Parts, Depends(_parts)]
