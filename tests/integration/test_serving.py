"""The daemon and its server: neither takes the other down."""

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from speakeasyd import daemon
from speakeasyd.config import InboxSettings, ServerSettings, Settings, WatchSettings, WorkerSettings
from speakeasyd.daemon import Daemon
from speakeasyd.domain.event_payloads import ResumeRequested
from speakeasyd.domain.pausing import PERSON_PAUSE
from speakeasyd.ledger.maintenance import send_request
from speakeasyd.testing import PIECE, SCRIPTED, FaultScript
from speakeasyd.workers.local_pool import LocalPool
from tests.conftest import eventually
from tests.ledgers import create, query_ledger


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One short file to transcribe, and a server on a port of its own choice."""
    monkeypatch.setattr(daemon, "LocalPool", partial(LocalPool, target=SCRIPTED))
    inbox = InboxSettings(path=tmp_path / "inbox", outbox=tmp_path / "outbox")
    inbox.path.mkdir()
    (inbox.path / "talk.wav").write_bytes(bytes(PIECE))
    create(tmp_path / "ledger.db")
    FaultScript().write_to(tmp_path)
    return Settings(
        state=tmp_path,
        inboxes=(inbox,),
        watch=WatchSettings(settle_s=0.1),
        workers=WorkerSettings(device="cpu"),
        server=ServerSettings(port=0),
    )


async def transcribes_and_says(
    settings: Settings, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    done = "SELECT 1 FROM jobs WHERE status = 'completed'"
    with caplog.at_level(logging.INFO, "speakeasyd"):
        async with running(settings) as (_, task):
            await eventually(lambda: task.done() or words in caplog.text, words)
            await eventually(
                lambda: task.done() or query_ledger(settings.state, done), "the transcript"
            )
            assert not task.done()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Daemon, asyncio.Task[int]]]:
    one = await Daemon.open(settings)
    task = asyncio.create_task(one.run())
    try:
        yield one, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_its_libraries_all_the_rest_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "speakeasyd.server.service", None)
    await transcribes_and_says(settings, caplog, "pip install 'speakeasyd[server]'")


async def test_a_port_that_is_taken_keeps_nobody_from_work(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = settings.model_copy(update={"server": ServerSettings(port=port)})
        await transcribes_and_says(taken, caplog, f"cannot listen on 127.0.0.1:{port}")


async def test_a_persons_pause_outlives_a_restart(settings: Settings) -> None:
    def status() -> list[object]:
        return [
            row["status"]
            for row in query_ledger(
                settings.state, "SELECT status FROM jobs WHERE path = 'later.wav'"
            )
        ]

    async with running(settings) as (first, _):
        await eventually(
            lambda: query_ledger(settings.state, "SELECT 1 FROM state WHERE key = 'workers'"),
            "the daemon",
        )
        await first._pauses.begin_pause(PERSON_PAUSE, "lunch")
    (settings.inboxes[0].path / "later.wav").write_bytes(bytes(2 * PIECE))
    async with running(settings) as (second, _):
        await eventually(status, "the job")
        assert (second._pauses.reasons, status()) == ({PERSON_PAUSE: "lunch"}, ["pending"])
        await second._ledger.write(send_request, ResumeRequested())
        await eventually(lambda: status() == ["completed"], "the text")
