"""A daemon with the scripted engine inside the test's process."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from speakeasyd import daemon
from speakeasyd.config import InboxSettings, ServerSettings, Settings, WatchSettings, WorkerSettings
from speakeasyd.daemon import Daemon
from speakeasyd.testing import PIECE, SCRIPTED, FaultScript
from speakeasyd.workers.local_pool import LocalPool
from tests.ledgers import create_ledger


def use_scripted_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "LocalPool", partial(LocalPool, target=SCRIPTED))


def create_settings(
    root: Path, *, inbox: Mapping[str, object] | None = None, **more: Any
) -> Settings:
    """Create an inbox, an empty ledger and an empty fault script. `inbox` and `more` add settings."""
    folders = {"path": root / "inbox", "outbox": root / "outbox"}
    watched = InboxSettings.model_validate(folders | dict(inbox or {}))
    watched.path.mkdir()
    create_ledger(root / "ledger.db")
    FaultScript().write_to(root)
    defaults = {
        "watch": WatchSettings(settle_s=0.1),
        "workers": WorkerSettings(device="cpu"),
        "server": ServerSettings(enabled=False),
    }
    return Settings(state=root, inboxes=(watched,), **(defaults | more))


def drop_file(settings: Settings, name: str, *, chunks: int = 1) -> Path:
    """Write a file with chunks for the scripted engine. Its bytes depend on its name."""
    file = settings.inboxes[0].path / name
    file.write_bytes(name.encode().ljust(PIECE * chunks, b"."))
    return file


@asynccontextmanager
async def run_daemon(settings: Settings) -> AsyncIterator[tuple[Daemon, asyncio.Task[int]]]:
    """Run a daemon and stop it at the end of the block."""
    main = await Daemon.open(settings)
    task = asyncio.create_task(main.run())
    try:
        yield main, task
    finally:
        main._stop_requested.set()
        await task
