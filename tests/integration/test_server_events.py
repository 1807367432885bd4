"""Live events: in order, none missed, and nobody waits for a client that does not listen."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.events import Event, EventHub
from speakeasyd.server import broadcast
from tests.served import MEMO, PATIENCE_S, serving

pytestmark = pytest.mark.real


def test_events_come_in_order_and_none_is_missed(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        address = f"ws://127.0.0.1:{served.port}/api/v1/events"
        with connect(address, max_size=None) as events:
            snapshot = json.loads(events.recv())
            assert snapshot["type"] == "snapshot"
            job = served.upload(("memo.flac", MEMO.read_bytes())).json()["files"][0]["job_id"]
            seen: list[dict[str, Any]] = []
            while not any(
                (event["kind"], event["job_id"]) == ("job.completed", job) for event in seen
            ):
                seen += json.loads(events.recv(timeout=PATIENCE_S))["events"]
        numbers = [event["seq"] for event in seen if event["seq"]]
        assert numbers == list(range(snapshot["seq"] + 1, snapshot["seq"] + 1 + len(numbers)))
        served.stop()
        served.start()  # what it missed is in the ledger, across a restart
        with connect(f"{address}?after={numbers[0]}", max_size=None) as events:
            missed = json.loads(events.recv())
        assert [event["seq"] for event in missed["events"]][: len(numbers) - 1] == numbers[1:]
        with connect(f"{address}?after={numbers[-1] + 10**6}", max_size=None) as events:
            assert json.loads(events.recv())["type"] == "snapshot"


async def test_a_client_that_does_not_listen_is_dropped_and_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "BACKLOG", 3)
    monkeypatch.setattr(broadcast, "GATHER_S", 0.0)
    hub = EventHub()
    told = broadcast.LiveBroadcast(hub)
    running = asyncio.create_task(told.run())
    await asyncio.sleep(0)
    with told.register_client() as deaf, told.register_client() as attentive:
        for number in range(1, 6):
            hub.publish(Event(EventKind.JOB_ADDED, "2026", seq=number))
            news = await attentive.next_message()
            assert news
            assert news.last == number
        had = [await deaf.next_message() for _ in range(4)]
        assert [news.last if news else None for news in had] == [1, 2, 3, None]
        assert told.clients == 1
    running.cancel()
