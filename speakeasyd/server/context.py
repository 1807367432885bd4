"""The daemon's components that the server uses."""

import secrets
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
from speakeasyd.server.blocking_calls import CallGroups
from speakeasyd.server.broadcast import LiveBroadcast
from speakeasyd.server.upload_keys import UploadKeys
from speakeasyd.server.upload_slots import UploadSlots
from speakeasyd.server.wrong_tokens import WrongTokens
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.uploads_under_way import UploadsUnderWay

Admit = Callable[[str, Sequence[tuple[bytes, str]], Changes, bool, str], Awaitable[list[AddedJob]]]
"""Adds jobs for the files of an upload: all or none.

Arguments: inbox, path and SHA-256 of each file, options, whether a client waits, key of the upload.
"""


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
    under_way: UploadsUnderWay  # shared with the intake
    wrong_tokens: WrongTokens = field(default_factory=WrongTokens)
    upload_keys: UploadKeys = field(default_factory=UploadKeys)
    uploads: UploadSlots = field(default_factory=UploadSlots)
    calls: CallGroups = field(default_factory=CallGroups)
    # in the names of temporary files: tells them from those of earlier runs
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def settings(self) -> Settings:
        return self.current()

    @property
    def state(self) -> Path:
        return self.settings.state


async def _get_context(connection: HTTPConnection) -> ServerContext:
    parts: ServerContext = connection.app.state.parts
    return parts


Lent = Annotated[ServerContext, Depends(_get_context)]
