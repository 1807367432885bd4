"""Live events are complete and in order; a slow client delays no other."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.events import Event, EventHub
from speakeasyd.server import broadcast
from tests.conftest import PATIENCE_S
from tests.serving_daemon import VOICE_MEMO, run_daemon

pytestmark = pytest.mark.real


def test_events_are_complete_and_in_order(tmp_path: Path) -> None:
    with run_daemon(tmp_path) as daemon:
        address = f"ws://127.0.0.1:{daemon.port}/api/v1/events"
        with connect(address, max_size=None) as events:
            snapshot = json.loads(events.recv())
            assert snapshot["type"] == "snapshot"
            job = daemon.upload(("memo.flac", VOICE_MEMO.read_bytes())).json()["files"][0]["job_id"]
            seen: list[dict[str, Any]] = []
            while not any(
                (event["kind"], event["job_id"]) == ("job.completed", job) for event in seen
            ):
                seen += json.loads(events.recv(timeout=PATIENCE_S))["events"]
        numbers = [event["seq"] for event in seen if event["seq"]]
        assert numbers == list(range(snapshot["seq"] + 1, snapshot["seq"] + 1 + len(numbers)))
        daemon.stop()
        daemon.start()  # missed events are read from the ledger after a restart
        with connect(f"{address}?after={numbers[0]}", max_size=None) as events:
            missed = json.loads(events.recv())
        assert [event["seq"] for event in missed["events"]][: len(numbers) - 1] == numbers[1:]
        with connect(f"{address}?after={numbers[-1] + 10**6}", max_size=None) as events:
            assert json.loads(events.recv())["type"] == "snapshot"


async def test_a_client_that_does_not_read_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "BACKLOG", 3)
    monkeypatch.setattr(broadcast, "GATHER_S", 0.0)
    hub = EventHub()
    live = broadcast.LiveBroadcast(hub)
    running = asyncio.create_task(live.run())
    await asyncio.sleep(0)
    with live.register_client() as deaf, live.register_client() as attentive:
        for number in range(1, 6):
            hub.publish(Event(EventKind.JOB_ADDED, "2026", seq=number))
            news = await attentive.next_message()
            assert news
            assert news.last == number
        had = [await deaf.next_message() for _ in range(4)]
        assert [news.last if news else None for news in had] == [1, 2, 3, None]
        assert live.clients == 1
    running.cancel()
