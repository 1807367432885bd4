"""What the daemon lends to the server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from speakeasyd.services.failures import Failures
from speakeasyd.services.pauses import Pauses
from speakeasyd.workers.pool import Pool

Admit = Callable[[str, bytes, str, Changes, bool], Awaitable[Added]]
"""Inbox, path, sha256, options, and whether somebody waits for the text."""


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
