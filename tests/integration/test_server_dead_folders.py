"""Requests for a folder or device that does not answer get a 503; all others are served meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from speakeasyd import daemon
from speakeasyd.clock import SystemClock
from speakeasyd.config import InboxSettings
from speakeasyd.domain.recording import RecorderState
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.safe_open import FolderHandle
from speakeasyd.server import blocking_calls
from speakeasyd.server.context import ServerContext
from speakeasyd.server.uploads import STAGING, remove_stale_uploads
from tests.conftest import PATIENCE_S, wait_until
from tests.integration.inprocess import create_client, create_context
from tests.integration.test_intake import IntakeSetup
from tests.ledgers import open_ledger

SHORT_S = 0.2  # seconds until a folder counts as unresponsive
MANY = 40  # more than the loop and anyio have shared threads


@dataclass
class DeadFolder:
    """A folder whose calls block until it is revived, as on a hard mount without its server."""

    path: Path
    revived: threading.Event = field(default_factory=threading.Event)
    entered: int = 0

    def block_calls(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def blocked(handle: Any, *args: Any, **kwargs: Any) -> Any:
            match handle:
                case FolderHandle():
                    path = handle.path
                case Path():
                    path = handle
                case _:
                    path = args[0]
            if path == self.path or self.path in path.parents:
                self.entered += 1
                self.revived.wait()
            return original(handle, *args, **kwargs)

        return blocked


class StuckRecorder:
    """A recorder whose device does not respond for a while."""

    def __init__(self) -> None:
        self.responds = threading.Event()
        self.stopped = threading.Event()

    def start(self, **_more: object) -> RecorderState:
        self.responds.wait()
        return RecorderState()

    def stop(self) -> RecorderState:
        self.stopped.set()
        return RecorderState()


@dataclass
class ServerSetup:
    parts: ServerContext
    client: httpx.AsyncClient
    dead: DeadFolder
    healthy: Path
    recorder: StuckRecorder

    async def upload(self, inbox: str, name: str = "a.wav") -> httpx.Response:
        return await self.client.post(
            f"/api/v1/batches?inbox={inbox}", files={"files": (name, b"RIFF " + name.encode())}
        )


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[ServerSetup]:
    dead, healthy = tmp_path / "dead", tmp_path / "well"
    inboxes = tuple(
        InboxSettings(name=folder.name, path=folder, outbox=tmp_path / "out" / folder.name)
        for folder in (dead, healthy)
    )
    for folder in (dead, healthy):
        folder.mkdir()
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        intake_setup = IntakeSetup(
            root=tmp_path, ledger=ledger, clock=SystemClock(), inboxes=inboxes
        )
        recorder = StuckRecorder()
        parts = create_context(intake_setup, recorder=recorder)
        async with create_client(parts) as client:
            folder = DeadFolder(dead)
            yield ServerSetup(parts, client, folder, healthy, recorder)
            folder.revived.set()
            recorder.responds.set()


@pytest.fixture
def restore_time_limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Shorten the time limit for folders, until the returned function is called."""
    usual = blocking_calls.ANSWER_S
    monkeypatch.setattr(blocking_calls, "ANSWER_S", SHORT_S)
    return lambda: monkeypatch.setattr(blocking_calls, "ANSWER_S", usual)


@pytest.mark.parametrize(
    "hanging",
    ["_open_root", "make_folder", "create_file", "open_below", "move_to", "sync", "is_at_its_path"],
)
async def test_an_upload_to_a_dead_inbox_is_refused_and_leaves_no_files(
    setup: ServerSetup,
    restore_time_limit: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    hanging: str,
) -> None:
    original = getattr(FolderHandle, hanging)
    function = original.__func__ if hanging == "_open_root" else original
    wrapped = setup.dead.block_calls(function)
    monkeypatch.setattr(
        FolderHandle, hanging, classmethod(wrapped) if hanging == "_open_root" else wrapped
    )
    response = await setup.upload("dead")
    while not setup.dead.entered:  # on a busy machine, an earlier call takes too long
        response = await setup.upload("dead")
    assert response.status_code == 503
    assert "does not answer" in response.json()["error"]["message"]
    restore_time_limit()
    assert (await setup.upload("well")).status_code == 201
    setup.dead.revived.set()

    def is_clean() -> bool:
        return not list(setup.dead.path.iterdir())

    await wait_until(is_clean, "the removal of late changes")
    assert (await setup.upload("dead")).status_code == 201
    rows = query_readonly(
        setup.parts.ledger.path, "SELECT inbox, path FROM job_status ORDER BY job_id"
    )
    assert [(row["inbox"], row["path"]) for row in rows] == [("well", "a.wav"), ("dead", "a.wav")]


async def test_requests_for_a_dead_inbox_block_no_shared_threads(
    setup: ServerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await setup.upload("dead", "before.wav")).status_code == 201
    monkeypatch.setattr(
        FolderHandle,
        "_open_root",
        classmethod(setup.dead.block_calls(FolderHandle._open_root.__func__)),
    )
    pending = [asyncio.create_task(setup.upload("dead", f"{n}.wav")) for n in range(MANY)]
    pending += [asyncio.create_task(setup.client.get("/api/v1/jobs/1/audio")) for _ in range(MANY)]
    await wait_until(lambda: setup.dead.entered >= 2 * blocking_calls.THREADS, "blocked calls")
    assert await asyncio.to_thread(lambda: "local work") == "local work"
    assert (await setup.upload("well")).status_code == 201
    assert (await setup.client.get("/")).status_code == 200
    assert (await setup.client.get("/api/v1/jobs/1/transcript?format=json")).status_code == 404
    setup.dead.revived.set()
    statuses = {response.status_code for response in await asyncio.gather(*pending)}
    assert statuses == {200, 201, 503}  # 503: too many at once


async def test_a_recording_that_starts_after_its_deadline_is_stopped(
    setup: ServerSetup, restore_time_limit: Callable[[], None]
) -> None:
    response = await setup.client.post("/api/v1/recorder/start")
    assert response.status_code == 503
    assert "the recorder does not answer" in response.text
    restore_time_limit()
    setup.recorder.responds.set()
    await wait_until(setup.recorder.stopped.is_set, "the end of the recording")


async def test_an_unresponsive_recorder_does_not_delay_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    responds = threading.Event()
    recorder = StuckRecorder()
    monkeypatch.setattr(recorder, "stop", responds.wait)
    monkeypatch.setattr(daemon, "RECORDING_S", SHORT_S)
    await asyncio.wait_for(daemon._stop_recorder(cast(Any, recorder)), PATIENCE_S)
    assert "could not be finished" in caplog.text
    responds.set()


async def test_stale_uploads_are_removed_despite_a_dead_inbox(
    setup: ServerSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = [setup.healthy / f"{STAGING}earlier", setup.dead.path / f"{STAGING}earlier"]
    present = setup.healthy / f"{STAGING}{setup.parts.run_id}-now"
    for folder in (*stale, present):
        folder.mkdir()
        (folder / "draft").write_bytes(b"RIFF")
    monkeypatch.setattr(blocking_calls, "RELEASE_S", SHORT_S)
    monkeypatch.setattr(Path, "glob", setup.dead.block_calls(Path.glob))
    await remove_stale_uploads(setup.parts)
    await wait_until(lambda: not stale[0].exists(), "the removal in the other inbox")
    assert stale[1].exists()
    setup.dead.revived.set()
    await wait_until(lambda: not stale[1].exists(), "the removal in the revived inbox")
    assert present.exists()
