"""An upload that is sent again is not done again; one that was refused is not done at all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from speakeasyd.config.settings import WatchSettings
from speakeasyd.domain.job import AddedJob
from speakeasyd.domain.uploads import KEPT_HOURS
from speakeasyd.errors import LedgerUnwritable
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.uploads import load_unfinished_uploads
from speakeasyd.server.context import ServerContext
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from speakeasyd.testing import ManualClock
from tests.integration.inprocess import create_client, create_context
from tests.integration.test_intake import Place
from tests.ledgers import opened

KEY = {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
SETTLE_S = 0.1


class Killed(BaseException):
    """Ends a request where a killed daemon would have ended it."""


@dataclass
class Door:
    """A paused daemon's uploads, and its scan, which is turned by hand."""

    place: Place
    clock: ManualClock
    under_way: UploadsUnderWay = field(default_factory=UploadsUnderWay)
    fault: BaseException | None = None  # raised instead of adding the jobs
    late_fault: BaseException | None = None  # raised after adding them
    scans: bool = False  # whether the scan has its turn before the jobs are added

    def __post_init__(self) -> None:
        self.place.intake = self.place.another(uploads=self.under_way)
        self.parts = self.create_parts()

    def create_parts(self) -> ServerContext:
        return create_context(self.place, admit=self.admit, under_way=self.under_way)

    async def admit(self, *args: Any) -> Sequence[AddedJob]:
        if self.scans:
            await self.scan()
        if self.fault:
            raise self.fault
        added = await self.place.intake.admit_file(*args)
        if self.late_fault:
            raise self.late_fault
        return added

    async def scan(self) -> None:
        """Let the scan find and add whatever is in the inbox."""
        await self.place.intake.rescan_all()
        for _ in range(5):
            await self.place.turn(SETTLE_S * 2)

    async def restart(self) -> None:
        """Everything that lives in memory is new."""
        self.under_way = UploadsUnderWay()
        self.under_way.restore_interrupted(
            await self.place.ledger.read(load_unfinished_uploads, self.place.ledger.now())
        )
        self.fault = None
        self.__post_init__()

    async def upload(
        self, content: bytes = b"RIFF one", *, name: str = "a.wav", key: bool = True, **fields: str
    ) -> httpx.Response:
        async with create_client(self.parts) as client:
            return await client.post(
                "/api/v1/batches",
                files={"files": (name, content)},
                data=fields,
                headers=KEY if key else {},
            )

    async def jobs(self) -> list[tuple[str, str]]:
        """Path and language of each job."""
        rows = query_readonly(
            self.place.ledger.path,
            "SELECT path, options ->> 'language' AS language FROM jobs ORDER BY id",
        )
        return [(row["path"], row["language"]) for row in rows]

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.place.inbox.rglob("*"))


@asynccontextmanager
async def opened_door(folder: Path) -> AsyncIterator[Door]:
    clock = ManualClock()
    (folder / "inbox").mkdir()
    async with opened(folder / "ledger.db", clock=clock) as ledger:
        watch = WatchSettings(settle_s=SETTLE_S)
        yield Door(Place(root=folder, ledger=ledger, clock=clock, watch=watch), clock)


async def test_a_key_gets_the_same_jobs_wherever_the_files_are(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as door:
        first = await door.upload(batch="monday")
        (door.place.inbox / "monday" / "a.wav").unlink()  # as a source that was disposed of
        await door.place.ledger.cancel_jobs([first.json()["files"][0]["job_id"]])
        again = await door.upload(batch="monday")
        assert (first.status_code, again.status_code) == (201, 201)
        [file] = first.json()["files"]
        assert again.json()["files"] == [{**file, "status": "cancelled"}]
        assert await door.jobs() == [("monday/a.wav", "auto")]
        assert door.files == ["monday"]


@pytest.mark.parametrize(
    "other",
    [
        {"content": b"RIFF two"},
        {"name": "b.wav"},
        {"batch": "tuesday"},
        {"options": '{"language": "de"}'},
    ],
)
async def test_a_key_is_for_one_request(tmp_path: Path, other: dict[str, Any]) -> None:
    async with opened_door(tmp_path) as door:
        assert (await door.upload()).status_code == 201
        refused = await door.upload(**other)
        assert refused.status_code == 422
        assert "Idempotency-Key" in refused.json()["error"]["message"]
        assert len(await door.jobs()) == 1
        assert door.files == ["a.wav"]


async def test_a_key_is_forgotten_after_a_day(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as door:
        await door.upload()
        door.clock.advance(timedelta(hours=KEPT_HOURS).total_seconds() + 1)
        assert (await door.upload(b"RIFF two")).status_code == 201
        assert len(await door.jobs()) == 2


@pytest.mark.parametrize("key", ["", '""', "x" * 300, "\x7f"])
async def test_what_is_no_key(tmp_path: Path, key: str) -> None:
    async with opened_door(tmp_path) as door, create_client(door.parts) as client:
        files = {"files": ("a.wav", b"RIFF")}
        headers = {"idempotency-key": key}
        answer = await client.post("/api/v1/batches", files=files, headers=headers)
        assert answer.status_code == 400


async def test_a_repetition_while_the_first_is_in_progress(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as door:
        begun, go_on = asyncio.Event(), asyncio.Event()
        admit = door.place.intake.admit_file

        async def wait_and_admit(*args: Any) -> Sequence[AddedJob]:
            begun.set()
            await go_on.wait()
            return await admit(*args)

        door.place.intake.admit_file = wait_and_admit  # type: ignore[method-assign]
        first = asyncio.create_task(door.upload())
        await begun.wait()
        assert (await door.upload()).status_code == 409
        go_on.set()
        assert (await first).status_code == 201
        assert (await door.upload()).json() == (await first).json()


@pytest.mark.parametrize("key", [True, False])
async def test_an_upload_that_was_stored_is_not_refused(tmp_path: Path, key: bool) -> None:
    """The ledger reports an error although it has committed, as a failing disk may do."""
    async with opened_door(tmp_path) as door:
        door.late_fault = LedgerUnwritable("an error after the commit")
        answer = await door.upload(key=key)
        assert answer.status_code == 201
        assert await door.jobs() == [("a.wav", "auto")]
        assert door.files == ["a.wav"]


async def test_the_scan_does_not_take_an_upload_that_is_refused(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as door:
        door.scans, door.fault = True, LedgerUnwritable("the disk is full")
        assert (await door.upload(options='{"language": "de"}')).status_code == 503
        assert door.files == []
        await door.scan()
        assert await door.jobs() == []
        door.fault = None
        assert (await door.upload(options='{"language": "de"}')).status_code == 201
        await door.scan()
        assert await door.jobs() == [("a.wav", "de")]


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("scanned_first", [True, False])
async def test_an_upload_that_was_killed_before_its_job_was_added(
    tmp_path: Path, key: bool, scanned_first: bool
) -> None:
    """Its file is in the inbox. It gets the options of the upload, and one transcript."""
    async with opened_door(tmp_path) as door:
        door.fault = Killed()
        with pytest.raises(Killed):
            await door.upload(options='{"language": "de"}', key=key)
        assert (door.files, await door.jobs()) == (["a.wav"], [])
        await door.restart()
        if scanned_first:
            await door.scan()
            assert await door.jobs() == [("a.wav", "de")]
        again = await door.upload(options='{"language": "de"}', key=key)
        assert [file["path"] for file in again.json()["files"]] == ["a.wav"]
        await door.scan()
        assert await door.jobs() == [("a.wav", "de")]
        assert door.files == ["a.wav"]


async def test_only_what_may_be_asked_for_again_is_kept(tmp_path: Path) -> None:
    async with opened_door(tmp_path) as door:
        for number in range(5):
            await door.upload(b"RIFF %d" % number, key=False)
        door.clock.advance(3600)
        await door.upload()
        rows = query_readonly(
            door.place.ledger.path, "SELECT substr(key, 1, 4) AS kind, hashes FROM upload_keys"
        )
        assert [(row["kind"], row["hashes"]) for row in rows] == [("key ", "[]")]
