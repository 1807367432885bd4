"""A repeated upload is not processed again; a refused one is not processed at all."""

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
from tests.integration.test_intake import IntakeSetup
from tests.ledgers import open_ledger

KEY_HEADER = {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
SETTLE_S = 0.1


class Killed(BaseException):
    """Ends a request where a killed daemon would have ended it."""


@dataclass
class UploadSetup:
    """The uploads of a paused daemon, and its scan, which the test runs."""

    intake_setup: IntakeSetup
    clock: ManualClock
    under_way: UploadsUnderWay = field(default_factory=UploadsUnderWay)
    fault: BaseException | None = None  # raised instead of adding jobs
    late_fault: BaseException | None = None  # raised after adding jobs
    scans: bool = False  # whether a scan runs before the jobs are added

    def __post_init__(self) -> None:
        self.intake_setup.intake = self.intake_setup.create_intake(uploads=self.under_way)
        self.parts = self.create_parts()

    def create_parts(self) -> ServerContext:
        return create_context(self.intake_setup, admit=self.admit_upload, under_way=self.under_way)

    async def admit_upload(self, *args: Any) -> Sequence[AddedJob]:
        if self.scans:
            await self.run_scan()
        if self.fault:
            raise self.fault
        added = await self.intake_setup.intake.admit_file(*args)
        if self.late_fault:
            raise self.late_fault
        return added

    async def run_scan(self) -> None:
        """Let the scan find and add the files in the inbox."""
        await self.intake_setup.intake.rescan_all()
        for _ in range(5):
            await self.intake_setup.run_round(SETTLE_S * 2)

    async def restart(self) -> None:
        """Recreate everything that is only in memory."""
        self.under_way = UploadsUnderWay()
        self.under_way.restore_interrupted(
            await self.intake_setup.ledger.read(
                load_unfinished_uploads, self.intake_setup.ledger.now()
            )
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
                headers=KEY_HEADER if key else {},
            )

    async def query_jobs(self) -> list[tuple[str, str]]:
        """Return path and language of each job."""
        rows = query_readonly(
            self.intake_setup.ledger.path,
            "SELECT path, options ->> 'language' AS language FROM jobs ORDER BY id",
        )
        return [(row["path"], row["language"]) for row in rows]

    @property
    def list_files(self) -> list[str]:
        return sorted(path.name for path in self.intake_setup.inbox.rglob("*"))


@asynccontextmanager
async def open_setup(folder: Path) -> AsyncIterator[UploadSetup]:
    clock = ManualClock()
    (folder / "inbox").mkdir()
    async with open_ledger(folder / "ledger.db", clock=clock) as ledger:
        watch = WatchSettings(settle_s=SETTLE_S)
        yield UploadSetup(IntakeSetup(root=folder, ledger=ledger, clock=clock, watch=watch), clock)


async def test_a_repeated_key_returns_the_same_jobs(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as setup:
        first = await setup.upload(batch="monday")
        (setup.intake_setup.inbox / "monday" / "a.wav").unlink()  # as after its disposal
        await setup.intake_setup.ledger.cancel_jobs([first.json()["files"][0]["job_id"]])
        again = await setup.upload(batch="monday")
        assert (first.status_code, again.status_code) == (201, 201)
        [file] = first.json()["files"]
        assert again.json()["files"] == [{**file, "status": "cancelled"}]
        assert await setup.query_jobs() == [("monday/a.wav", "auto")]
        assert setup.list_files == ["monday"]


@pytest.mark.parametrize(
    "other",
    [
        {"content": b"RIFF two"},
        {"name": "b.wav"},
        {"batch": "tuesday"},
        {"options": '{"language": "de"}'},
    ],
)
async def test_a_key_belongs_to_one_request(tmp_path: Path, other: dict[str, Any]) -> None:
    async with open_setup(tmp_path) as setup:
        assert (await setup.upload()).status_code == 201
        refused = await setup.upload(**other)
        assert refused.status_code == 422
        assert "Idempotency-Key" in refused.json()["error"]["message"]
        assert len(await setup.query_jobs()) == 1
        assert setup.list_files == ["a.wav"]


async def test_a_key_is_forgotten_after_a_day(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as setup:
        await setup.upload()
        setup.clock.advance(timedelta(hours=KEPT_HOURS).total_seconds() + 1)
        assert (await setup.upload(b"RIFF two")).status_code == 201
        assert len(await setup.query_jobs()) == 2


@pytest.mark.parametrize("key", ["", '""', "x" * 300, "\x7f"])
async def test_invalid_keys_are_refused(tmp_path: Path, key: str) -> None:
    async with open_setup(tmp_path) as setup, create_client(setup.parts) as client:
        files = {"files": ("a.wav", b"RIFF")}
        headers = {"idempotency-key": key}
        answer = await client.post("/api/v1/batches", files=files, headers=headers)
        assert answer.status_code == 400


async def test_a_repetition_during_the_first_request(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as setup:
        begun, go_on = asyncio.Event(), asyncio.Event()
        admit = setup.intake_setup.intake.admit_file

        async def wait_and_admit(*args: Any) -> Sequence[AddedJob]:
            begun.set()
            await go_on.wait()
            return await admit(*args)

        setup.intake_setup.intake.admit_file = wait_and_admit  # type: ignore[method-assign]
        first = asyncio.create_task(setup.upload())
        await begun.wait()
        assert (await setup.upload()).status_code == 409
        go_on.set()
        assert (await first).status_code == 201
        assert (await setup.upload()).json() == (await first).json()


@pytest.mark.parametrize("key", [True, False])
async def test_an_upload_that_was_stored_is_not_refused(tmp_path: Path, key: bool) -> None:
    """The ledger reports an error after its commit, as a failing disk may do."""
    async with open_setup(tmp_path) as setup:
        setup.late_fault = LedgerUnwritable("an error after the commit")
        answer = await setup.upload(key=key)
        assert answer.status_code == 201
        assert await setup.query_jobs() == [("a.wav", "auto")]
        assert setup.list_files == ["a.wav"]


async def test_the_scan_ignores_a_refused_upload(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as setup:
        setup.scans, setup.fault = True, LedgerUnwritable("the disk is full")
        assert (await setup.upload(options='{"language": "de"}')).status_code == 503
        assert setup.list_files == []
        await setup.run_scan()
        assert await setup.query_jobs() == []
        setup.fault = None
        assert (await setup.upload(options='{"language": "de"}')).status_code == 201
        await setup.run_scan()
        assert await setup.query_jobs() == [("a.wav", "de")]


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("scanned_first", [True, False])
async def test_an_upload_that_was_killed_before_its_job_was_added(
    tmp_path: Path, key: bool, scanned_first: bool
) -> None:
    """The file is in the inbox. It gets the options of the upload, and one transcript."""
    async with open_setup(tmp_path) as setup:
        setup.fault = Killed()
        with pytest.raises(Killed):
            await setup.upload(options='{"language": "de"}', key=key)
        assert (setup.list_files, await setup.query_jobs()) == (["a.wav"], [])
        await setup.restart()
        if scanned_first:
            await setup.run_scan()
            assert await setup.query_jobs() == [("a.wav", "de")]
        again = await setup.upload(options='{"language": "de"}', key=key)
        assert [file["path"] for file in again.json()["files"]] == ["a.wav"]
        await setup.run_scan()
        assert await setup.query_jobs() == [("a.wav", "de")]
        assert setup.list_files == ["a.wav"]


async def test_only_repeatable_requests_are_stored(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as setup:
        for number in range(5):
            await setup.upload(b"RIFF %d" % number, key=False)
        setup.clock.advance(3600)
        await setup.upload()
        rows = query_readonly(
            setup.intake_setup.ledger.path,
            "SELECT substr(key, 1, 4) AS kind, hashes FROM upload_keys",
        )
        assert [(row["kind"], row["hashes"]) for row in rows] == [("key ", "[]")]
