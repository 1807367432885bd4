"""Folders on a server that does not respond delay neither other folders nor the stop."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.config import InboxSettings
from speakeasyd.errors import OutboxUnavailable
from speakeasyd.events import EventHub
from speakeasyd.inbox.watcher import Watcher
from speakeasyd.mounts import MountAnchor
from speakeasyd.outbox.publish import Outbox
from speakeasyd.services import inbox_monitor, outboxes
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from tests.conftest import wait_until
from tests.integration.test_intake import FAST_WATCHING, IntakeSetup
from tests.ledgers import open_ledger

ANSWER_S = 0.5  # seconds until a folder counts as unresponsive
HUNG_CALLS = 40  # more than the threads of the shared executor
TEST_LIMIT_S = 60.0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event that releases the blocked calls at the end, so that their threads exit."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def dead(tmp_path: Path, release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose calls block, as on a hard mount without its server."""
    folder = tmp_path / "dead"
    folder.mkdir()
    original = MountAnchor.is_present, Watcher.stop_watching, Outbox.probe_writable

    def block_calls(anchor: MountAnchor) -> bool:
        return release.wait() if anchor._folder == folder else original[0](anchor)

    def stop_watcher(watcher: Watcher) -> None:
        if watcher._root == folder:
            release.wait()
        original[1](watcher)

    def check_outbox(outbox: Outbox) -> None:
        if outbox.path == folder:
            release.wait()
        original[2](outbox)

    monkeypatch.setattr(MountAnchor, "is_present", block_calls)
    monkeypatch.setattr(Watcher, "stop_watching", stop_watcher)
    monkeypatch.setattr(Outbox, "probe_writable", check_outbox)
    for module in (inbox_monitor, outboxes):
        monkeypatch.setattr(module, "ANSWER_S", ANSWER_S)
    monkeypatch.setattr(inbox_monitor, "STOP_S", ANSWER_S)
    return folder


async def test_a_dead_inbox_is_paused_and_others_continue(tmp_path: Path, dead: Path) -> None:
    inboxes = (
        InboxSettings(name="dead", path=dead, outbox=tmp_path / "out" / "dead"),
        InboxSettings(name="well", path=tmp_path / "inbox", outbox=tmp_path / "out" / "well"),
    )
    (tmp_path / "inbox").mkdir()
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        setup = IntakeSetup(
            root=tmp_path, ledger=ledger, clock=SystemClock(), inboxes=inboxes, watch=FAST_WATCHING
        )
        await setup.intake.start()
        setup.write_file("talk.wav")

        async def has_job() -> bool:
            return bool(await setup.query_jobs())

        async with asyncio.timeout(TEST_LIMIT_S):
            while not await has_job():
                await asyncio.sleep(0.02)
        await wait_until(
            lambda: any("does not answer" in why for why in setup.pauses.reasons.values()),
            "the pause",
        )
        assert (
            await asyncio.wait_for(asyncio.to_thread(lambda: "local work"), TEST_LIMIT_S)
            == "local work"
        )
        await asyncio.wait_for(setup.intake.stop(), TEST_LIMIT_S)


async def test_calls_to_a_dead_outbox_end_and_use_no_shared_thread(
    tmp_path: Path, dead: Path
) -> None:
    inboxes = [
        InboxSettings(name="dead", path=tmp_path / "in" / "a", outbox=dead),
        InboxSettings(name="well", path=tmp_path / "in" / "b", outbox=tmp_path / "out"),
    ]
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        pauses = Pauses(ledger=ledger, hub=EventHub(), clock=SystemClock())
        both = Outboxes(inboxes=inboxes, pauses=pauses)
        async with asyncio.timeout(TEST_LIMIT_S):
            await both.prepare_folders()
            assert (both.is_paused("dead"), both.is_paused("well")) == (True, False)
            hung = [
                both.call_outbox("dead", both["dead"].probe_writable) for _ in range(HUNG_CALLS)
            ]
            ended = asyncio.gather(*hung, return_exceptions=True)
            assert await asyncio.to_thread(lambda: "local work") == "local work"
            assert await both.check_writable("well")
            assert all(isinstance(error, OutboxUnavailable) for error in await ended)
