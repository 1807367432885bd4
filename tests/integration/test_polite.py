"""A daemon gives work back outside its hours and continues when they begin."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.config import PoliteSettings, Settings
from speakeasyd.daemon import Daemon
from speakeasyd.domain.event_payloads import ReloadRequested
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import send_request
from speakeasyd.testing import PIECE, FaultScript, build_scripted_text
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.scripted_daemon import create_settings, use_scripted_engine
from tests.ledgers import query_ledger

CHUNKS = 40


async def test_work_is_given_back_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_scripted_engine(monkeypatch)
    always = create_settings(tmp_path)
    FaultScript(chunk_s=0.05).write_to(tmp_path)
    data = bytes(range(256)) * (PIECE * CHUNKS // 256)
    (always.inboxes[0].path / "talk.wav").write_bytes(data)
    past = SystemClock().utc().astimezone() - timedelta(hours=2)
    closed = PoliteSettings(hours=(f"{past:%H:%M}-{past + timedelta(hours=1):%H:%M}",))
    current = [always]
    main = await Daemon.open(always, reload_settings=lambda: current[0])
    running = asyncio.create_task(main.run())

    def read_job() -> tuple[object, ...]:
        rows = query_ledger(
            tmp_path, "SELECT status, (SELECT count(*) FROM chunks), attempts FROM jobs"
        )
        return tuple(rows[0].values()) if rows else ("", 0, 0)

    async def request_reload(settings: Settings) -> None:
        current[0] = settings
        beside = await Ledger.open(tmp_path / "ledger.db", clock=SystemClock(), hub=EventHub())
        await beside.write(send_request, ReloadRequested())
        await beside.close()

    await wait_until(lambda: read_job()[:2] >= ("processing", 3), "some chunks")
    await request_reload(always.model_copy(update={"polite": closed}))
    await wait_until(lambda: read_job()[0] == "pending", "the release of the job")
    _, kept, attempts = read_job()
    assert 3 <= int(str(kept)) < CHUNKS
    assert attempts == 0
    assert '"hours"' in str(query_ledger(tmp_path, "SELECT value FROM state WHERE key = 'pauses'"))
    await request_reload(always)
    await wait_until(lambda: read_job()[0] == "completed", "the transcript")
    [text] = query_ledger(tmp_path, "SELECT text FROM transcript_text")
    assert text["text"] == build_scripted_text(data)
    main._stop_requested.set()
    assert await asyncio.wait_for(running, PATIENCE_S) == 0
