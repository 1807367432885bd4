"""A daemon at work lets go of it when its hours end, and goes on where it was when they begin."""

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from speakeasyd import daemon
from speakeasyd.clock import SystemClock
from speakeasyd.config import InboxSettings, PoliteSettings, Settings, WatchSettings, WorkerSettings
from speakeasyd.daemon import Daemon
from speakeasyd.domain.event_payloads import ReloadRequested
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import send_request
from speakeasyd.testing import PIECE, SCRIPTED, FaultScript, build_scripted_chunks
from speakeasyd.workers.local_pool import LocalPool
from tests.conftest import PATIENCE_S, eventually
from tests.ledgers import create, query_ledger

CHUNKS = 40


async def test_work_is_given_back_and_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "LocalPool", partial(LocalPool, target=SCRIPTED))
    inbox = InboxSettings(path=tmp_path / "inbox", outbox=tmp_path / "outbox")
    inbox.path.mkdir()
    create(tmp_path / "ledger.db")
    FaultScript(chunk_s=0.05).write_to(tmp_path)
    data = bytes(range(256)) * (PIECE * CHUNKS // 256)
    (inbox.path / "talk.wav").write_bytes(data)
    always = Settings(
        state=tmp_path,
        inboxes=(inbox,),
        watch=WatchSettings(settle_s=0.1),
        workers=WorkerSettings(device="cpu"),
    )
    long_gone = SystemClock().utc().astimezone() - timedelta(hours=2)
    closed = PoliteSettings(hours=(f"{long_gone:%H:%M}-{long_gone + timedelta(hours=1):%H:%M}",))
    wanted = [always]
    main = await Daemon.open(always, reload_settings=lambda: wanted[0])
    running = asyncio.create_task(main.run())

    def job() -> tuple[object, ...]:
        rows = query_ledger(
            tmp_path, "SELECT status, (SELECT count(*) FROM chunks), attempts FROM jobs"
        )
        return tuple(rows[0].values()) if rows else ("", 0, 0)

    async def reload(settings: Settings) -> None:
        wanted[0] = settings
        beside = await Ledger.open(tmp_path / "ledger.db", clock=SystemClock(), hub=EventHub())
        await beside.write(send_request, ReloadRequested())
        await beside.close()

    await eventually(lambda: job()[:2] >= ("processing", 3), "some chunks")
    await reload(always.model_copy(update={"polite": closed}))
    await eventually(lambda: job()[0] == "pending", "the work to be given back")
    _, kept, attempts = job()
    assert 3 <= int(str(kept)) < CHUNKS
    assert attempts == 0
    assert '"hours"' in str(query_ledger(tmp_path, "SELECT value FROM state WHERE key = 'pauses'"))
    await reload(always)
    await eventually(lambda: job()[0] == "completed", "the transcript")
    [text] = query_ledger(tmp_path, "SELECT text FROM transcript_text")
    said = "".join(
        segment.text for chunk in build_scripted_chunks(data) for segment in chunk.segments
    )
    assert text["text"] == said.strip()
    main._stop_requested.set()
    assert await asyncio.wait_for(running, PATIENCE_S) == 0
