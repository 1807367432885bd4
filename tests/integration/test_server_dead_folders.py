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
from tests.conftest import PATIENCE_S, eventually
from tests.integration.inprocess import create_client, create_context
from tests.integration.test_intake import Place
from tests.ledgers import opened

SHORT_S = 0.2  # seconds until a folder counts as one that does not answer
MANY = 40  # more than the loop's and anyio's shared threads together can hold


@dataclass
class DeadFolder:
    """A folder whose calls hang while it is dead, as on a hard mount whose server is gone."""

    path: Path
    revived: threading.Event = field(default_factory=threading.Event)
    entered: int = 0

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: Any, *args: Any, **kwargs: Any) -> Any:
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

        return call


class StuckRecorder:
    """A recorder whose device does not answer for a while."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.stopped = threading.Event()

    def start(self, **_more: object) -> RecorderState:
        self.answers.wait()
        return RecorderState()

    def stop(self) -> RecorderState:
        self.stopped.set()
        return RecorderState()


@dataclass
class Site:
    parts: ServerContext
    client: httpx.AsyncClient
    dead: DeadFolder
    well: Path
    recorder: StuckRecorder

    async def upload(self, inbox: str, name: str = "a.wav") -> httpx.Response:
        return await self.client.post(
            f"/api/v1/batches?inbox={inbox}", files={"files": (name, b"RIFF " + name.encode())}
        )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    dead, well = tmp_path / "dead", tmp_path / "well"
    inboxes = tuple(
        InboxSettings(name=folder.name, path=folder, outbox=tmp_path / "out" / folder.name)
        for folder in (dead, well)
    )
    for folder in (dead, well):
        folder.mkdir()
    async with opened(tmp_path / "ledger.db") as ledger:
        place = Place(root=tmp_path, ledger=ledger, clock=SystemClock(), inboxes=inboxes)
        recorder = StuckRecorder()
        parts = create_context(place, recorder=recorder)
        async with create_client(parts) as client:
            folder = DeadFolder(dead)
            yield Site(parts, client, folder, well, recorder)
            folder.revived.set()
            recorder.answers.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Folders have little time to answer, until the fixture is called."""
    usual = blocking_calls.ANSWER_S
    monkeypatch.setattr(blocking_calls, "ANSWER_S", SHORT_S)
    return lambda: monkeypatch.setattr(blocking_calls, "ANSWER_S", usual)


@pytest.mark.parametrize(
    "hanging",
    ["_open_root", "make_folder", "create_file", "open_below", "move_to", "sync", "is_at_its_path"],
)
async def test_an_upload_to_a_dead_inbox_is_refused_and_leaves_nothing(
    site: Site, impatient: Callable[[], None], monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    original = getattr(FolderHandle, hanging)
    function = original.__func__ if hanging == "_open_root" else original
    wrapped = site.dead.wrap(function)
    monkeypatch.setattr(
        FolderHandle, hanging, classmethod(wrapped) if hanging == "_open_root" else wrapped
    )
    answer = await site.upload("dead")
    assert (answer.status_code, site.dead.entered > 0) == (503, True)
    assert "does not answer" in answer.json()["error"]["message"]
    impatient()
    assert (await site.upload("well")).status_code == 201
    site.dead.revived.set()

    def is_clean() -> bool:
        return not list(site.dead.path.iterdir())

    await eventually(is_clean, "what was done too late to be undone")
    assert (await site.upload("dead")).status_code == 201
    rows = query_readonly(
        site.parts.ledger.path, "SELECT inbox, path FROM job_status ORDER BY job_id"
    )
    assert [(row["inbox"], row["path"]) for row in rows] == [("well", "a.wav"), ("dead", "a.wav")]


async def test_many_requests_for_a_dead_inbox_hold_no_shared_thread(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await site.upload("dead", "before.wav")).status_code == 201
    monkeypatch.setattr(
        FolderHandle, "_open_root", classmethod(site.dead.wrap(FolderHandle._open_root.__func__))
    )
    hung = [asyncio.create_task(site.upload("dead", f"{n}.wav")) for n in range(MANY)]
    hung += [asyncio.create_task(site.client.get("/api/v1/jobs/1/audio")) for _ in range(MANY)]
    await eventually(lambda: site.dead.entered >= 2 * blocking_calls.THREADS, "calls that hang")
    assert await asyncio.to_thread(lambda: "local work") == "local work"
    assert (await site.upload("well")).status_code == 201
    assert (await site.client.get("/")).status_code == 200
    assert (await site.client.get("/api/v1/jobs/1/transcript?format=json")).status_code == 404
    site.dead.revived.set()
    statuses = {answer.status_code for answer in await asyncio.gather(*hung)}
    assert statuses == {200, 201, 503}  # 503: too many at once


async def test_a_recording_that_starts_too_late_is_stopped(
    site: Site, impatient: Callable[[], None]
) -> None:
    answer = await site.client.post("/api/v1/recorder/start")
    assert answer.status_code == 503
    assert "the recorder does not answer" in answer.text
    impatient()
    site.recorder.answers.set()
    await eventually(site.recorder.stopped.is_set, "the end of the recording that nobody knows of")


async def test_a_recorder_that_does_not_answer_holds_no_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    recorder = StuckRecorder()
    monkeypatch.setattr(recorder, "stop", answers.wait)
    monkeypatch.setattr(daemon, "RECORDING_S", SHORT_S)
    await asyncio.wait_for(daemon._stop_recorder(cast(Any, recorder)), PATIENCE_S)
    assert "could not be finished" in caplog.text
    answers.set()


async def test_the_sweep_spares_present_uploads_and_outlives_a_dead_inbox(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [site.well / f"{STAGING}earlier", site.dead.path / f"{STAGING}earlier"]
    present = site.well / f"{STAGING}{site.parts.run_id}-now"
    for folder in (*left, present):
        folder.mkdir()
        (folder / "draft").write_bytes(b"RIFF")
    monkeypatch.setattr(blocking_calls, "RELEASE_S", SHORT_S)
    monkeypatch.setattr(Path, "glob", site.dead.wrap(Path.glob))
    await remove_stale_uploads(site.parts)
    await eventually(lambda: not left[0].exists(), "the sweep of the other inbox")
    assert left[1].exists()
    site.dead.revived.set()
    await eventually(lambda: not left[1].exists(), "the sweep of the inbox that was dead")
    assert present.exists()
