"""From files that appear to jobs in a real ledger, with real files, events and threads."""

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.clock import Clock, SystemClock
from speakeasyd.config import InboxSettings, Settings, WatchSettings
from speakeasyd.domain.debounce import AccessProblem, OpenFile
from speakeasyd.domain.job import Signature
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.errors import LedgerUnwritable
from speakeasyd.events import EventHub
from speakeasyd.inbox import file_identity
from speakeasyd.inbox.watcher import Watcher
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs, find_unknown_files
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.loop import MainLoop
from speakeasyd.services.admission import Admission
from speakeasyd.services.intake import Intake
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from speakeasyd.testing import ManualClock
from tests.conftest import PATIENCE_S, eventually
from tests.ledgers import opened

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel who writes")
posix = pytest.mark.skipif(sys.platform == "win32", reason="names and files that only POSIX has")

QUICK = WatchSettings(settle_s=0.2)

AWAY = PauseCause(PauseKind.INBOX, "inbox")


class Place:
    """An inbox, the ledger, and the intake between them."""

    def __init__(self, *, root: Path, ledger: Ledger, clock: Clock, **settings: Any) -> None:
        self.inbox = root / "inbox"
        self.ledger = ledger
        self.clock = clock
        inboxes = settings.pop("inboxes", (InboxSettings(path=self.inbox, outbox=root / "outbox"),))
        self.settings = Settings(state=root, inboxes=inboxes, **settings)
        self.pauses = Pauses(ledger=ledger, hub=EventHub(), clock=clock)
        self.intake = self.another()

    def another(self, *, ledger: Any = None, uploads: UploadsUnderWay | None = None) -> Intake:
        return Intake(
            settings=self.settings,
            ledger=ledger or self.ledger,
            pauses=self.pauses,
            main_loop=MainLoop(asyncio.get_running_loop()),
            clock=self.clock,
            uploads=uploads,
        )

    def put(self, name: str | bytes, data: bytes = b"") -> Path:
        file = self.inbox / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data or file.name.encode(errors="replace"))
        return file

    async def jobs(self) -> list[dict[str, Any]]:
        return query_readonly(
            self.ledger.path,
            "SELECT job_status.*, jobs.path_raw, jobs.size, jobs.duplicate_of, jobs.options FROM job_status "
            "JOIN jobs ON jobs.id = job_id ORDER BY job_id",
        )

    async def statuses(self) -> list[tuple[str, str]]:
        return [(job["path"], job["status"]) for job in await self.jobs()]

    async def has(self, jobs: int, *, patience_s: float = PATIENCE_S) -> None:
        """Wait for so many jobs, and for nothing more to come."""
        deadline = time.monotonic() + patience_s
        while (count := len(await self.jobs())) < jobs or not self.intake.idle:
            assert time.monotonic() < deadline, f"{count} of {jobs} jobs"
            await asyncio.sleep(0.02)
        assert count == jobs

    async def turn(self, seconds: float = 0.0) -> None:
        """Let the manual clock run, then one round, and more for as long as files are being read."""
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(seconds)
        await self.intake.run_once()
        while any(pipeline.admission._workers for pipeline in self.intake._pipelines.values()):
            await self.intake.run_once()

    @property
    def admission(self) -> Admission:
        return next(iter(self.intake._pipelines.values())).admission

    @property
    def watcher(self) -> Watcher:
        return next(iter(self.intake._pipelines.values())).monitor._watcher

    async def deafen(self) -> None:
        """What is seen of systems that take a watch and then tell nothing: all looks well, and no event comes."""
        await asyncio.to_thread(self.watcher.stop_watching)
        self.watcher._identity = self.watcher._read_folder_identity()
        self.watcher._overflows.attach()

    async def state(self, inbox: str = "inbox") -> Any:
        rows = query_readonly(
            self.ledger.path, "SELECT value FROM inbox_states WHERE inbox = ?", [inbox]
        )
        return rows[0]["value"] if rows else ""


@asynccontextmanager
async def place(root: Path, *, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Place]:
    """With the services running, or with a clock turned by hand and rounds run by `turn`."""
    clock = clock or SystemClock()
    (root / "inbox").mkdir(exist_ok=True)
    async with opened(root / "ledger.db", clock=clock) as ledger:
        here = Place(root=root, ledger=ledger, clock=clock, **settings)
        try:
            yield here
        finally:
            await here.intake.stop()


@asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[Place]:
    async with place(root, **{"watch": QUICK, **settings}) as here:
        await here.intake.start()
        yield here


@asynccontextmanager
async def by_hand(root: Path, **settings: Any) -> AsyncIterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        # the real time since a change counts for nothing: the manual clock alone decides
        patch.setattr(file_identity, "find_local_device", lambda _root: None)
        async with place(root, clock=ManualClock(), **settings) as here:
            yield here


class Through:
    """The ledger, to be given a fault: what is not overridden goes to the real one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


# --- settle


async def test_a_file_becomes_a_pending_job_after_two_looks(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav", b"sound")
        await here.turn()
        assert await here.jobs() == []
        assert not here.intake.idle
        await here.turn(1.9)
        assert await here.jobs() == []
        await here.turn(0.1)
        [job] = await here.jobs()
        assert (job["path"], job["status"], job["size"], job["batch"]) == (
            "a.wav",
            "pending",
            5,
            "inbox",
        )
        assert here.intake.idle


async def test_a_file_with_an_old_date_settles_like_any_other(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        os.utime(here.put("a.wav"), (0, 0))
        await here.turn()
        assert await here.jobs() == []
        await here.turn(2)
        assert await here.statuses() == [("a.wav", "pending")]


async def test_a_growing_file_is_one_job_once_it_has_grown(tmp_path: Path) -> None:
    async with by_hand(tmp_path, watch=WatchSettings(poll="always")) as here:
        file = here.put("a.wav", b"1")
        for _ in range(5):
            await here.turn(1.5)
            with file.open("ab") as more:
                more.write(b"more")
        await here.turn(1.5)
        assert await here.jobs() == []
        await here.turn(2)
        await here.turn(2)
        assert [job["size"] for job in await here.jobs()] == [21]


async def test_a_preallocated_copy_waits_for_its_bytes(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        file = here.put("a.wav", bytes(1000))
        for second in range(5):
            os.utime(file, ns=(second, second))  # what writing into it does to its date
            await here.turn(1.5)
        assert await here.jobs() == []
        await here.turn(2)
        assert len(await here.jobs()) == 1


async def test_an_empty_file_is_waited_for_and_then_failed(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav").write_bytes(b"")
        await here.turn()
        for _ in range(14):
            await here.turn(2)
        assert await here.jobs() == []
        [waiting] = query_readonly(here.ledger.path, "SELECT path, size, reason FROM arrivals")
        assert waiting == {"path": "a.wav", "size": 0, "reason": "it has zero bytes so far"}
        for _ in range(5):
            await here.turn(2)
        [job] = await here.jobs()
        assert (job["status"], job["error_code"]) == ("failed", "empty_file")
        assert query_readonly(here.ledger.path, "SELECT * FROM arrivals") == []
        await here.intake.rescan_all()
        await here.turn(40)
        assert len(await here.jobs()) == 1


@linux
async def test_a_file_that_is_open_for_writing_is_not_complete_however_still(
    tmp_path: Path,
) -> None:
    async with by_hand(tmp_path) as here:
        with here.put("a.wav", b"half").open("ab") as writer:
            await here.turn()
            for _ in range(30):
                await here.turn(5)
            assert await here.jobs() == []
            [waiting] = query_readonly(here.ledger.path, "SELECT reason FROM arrivals")
            assert waiting["reason"].startswith("still open for writing by ")
            assert waiting["reason"].endswith(f"(process {os.getpid()})")
            writer.write(b" and the rest")
        for _ in range(4):
            await here.turn(5)
        assert [job["size"] for job in await here.jobs()] == [17]


@linux
async def test_a_writer_who_closes_without_a_change_is_noticed_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        with here.put("a.wav").open("ab"):
            await eventually(lambda: _held(here), "the writer to be seen")
            assert await here.jobs() == []
        await here.has(1)


@linux
async def test_an_empty_file_that_is_open_is_not_given_up(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        file = here.put("a.wav")
        file.write_bytes(b"")
        with file.open("ab") as writer:
            await here.turn()
            for _ in range(20):
                await here.turn(5)
            assert await here.jobs() == []
            writer.write(b"sound")
        for _ in range(4):
            await here.turn(5)
        assert await here.statuses() == [("a.wav", "pending")]


def _held(here: Place) -> bool:
    arrivals = here.admission._arrivals._by_path.values()
    return any(isinstance(arrival.stillness.trouble, OpenFile) for arrival in arrivals)


async def test_a_file_that_goes_before_it_settles_is_forgotten(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        file = here.put("a.wav")
        await here.turn()
        file.unlink()
        await here.turn(2)
        assert here.intake.idle
        assert await here.jobs() == []


async def test_a_file_that_changes_while_it_is_read_settles_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file_identity.hash_file
    changes: list[int] = []

    def hash_and_change(
        root: Path, path: bytes, expected: Signature, *, stopped: Callable[[], bool]
    ) -> str | AccessProblem:
        def change_once() -> bool:  # called after each block that is read
            if not changes:
                with file.open("r+b") as other:
                    changes.append(other.write(b"x"))
            return stopped()

        return real(root, path, expected, stopped=change_once)

    monkeypatch.setattr(file_identity, "hash_file", hash_and_change)
    async with by_hand(tmp_path) as here:
        file = here.put("a.wav", bytes(100))
        await here.turn()
        await here.turn(2)
        assert changes
        assert await here.jobs() == []
        await here.turn(2)
        assert await here.jobs() == []
        await here.turn(2)
        assert await here.statuses() == [("a.wav", "pending")]


# --- options


async def test_batch_preset_and_sidecar(tmp_path: Path) -> None:
    presets = {"calls": {"channels": "split", "beam_size": 2}}
    async with by_hand(tmp_path, presets=presets) as here:
        here.put("calls/a.wav")
        here.put("calls/deep/b.wav")
        here.put("calls/b.wav.toml", b"beam_size = 1\nformats = ['docx']")
        here.put("calls/b.wav")
        here.put("other/c.wav")
        await here.turn()
        await here.turn(2)
        jobs = {job["path"]: job for job in await here.jobs()}
        assert {path: (job["batch"], job["preset"]) for path, job in jobs.items()} == {
            "calls/a.wav": ("calls", "calls"),
            "calls/deep/b.wav": ("calls", "calls"),
            "calls/b.wav": ("calls", "calls"),
            "other/c.wav": ("other", None),
        }
        [claimed] = [
            job for job in await here.ledger.write(claim_jobs, 4) if job.path == b"calls/b.wav"
        ]
        assert claimed.options.channels == "split"
        assert claimed.options.beam_size == 1
        assert claimed.options.formats == ("docx",)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        (b"langage = 'de'", ["'langage'", "did you mean 'language'"]),
        (os.urandom(2000), ["UTF-8"]),
        (bytes(100 * 1024 * 1024), ["104857600 bytes", "65536 are allowed"]),
        (b"a" * 65537, ["65537 bytes"]),
    ],
)
async def test_a_bad_sidecar_fails_its_file_with_a_reason_and_no_other(
    tmp_path: Path, sidecar: bytes, words: list[str]
) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav.toml", sidecar)
        here.put("a.wav")
        here.put("b.wav")
        await here.turn()
        await here.turn(2)
        jobs = {job["path"]: job for job in await here.jobs()}
        assert (jobs["a.wav"]["status"], jobs["a.wav"]["error_code"]) == ("failed", "bad_sidecar")
        assert all(word in jobs["a.wav"]["error"] for word in words)
        assert jobs["b.wav"]["status"] == "pending"


async def test_a_file_with_a_mended_sidecar_is_tried_again_once_it_is_touched(
    tmp_path: Path,
) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav.toml", b"nonsense")
        file = here.put("a.wav")
        await here.turn()
        await here.turn(2)
        here.put("a.wav.toml", b"beam_size = 1")
        os.utime(file, (5, 5))
        await here.intake.rescan_all()
        await here.turn()
        await here.turn(2)
        assert await here.statuses() == [("a.wav", "failed"), ("a.wav", "pending")]


async def test_a_file_waits_for_a_sidecar_that_is_still_written(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav")
        await here.turn()
        await here.turn(1)
        here.put("a.wav.toml", b"beam_size = 1")
        await here.turn(1)
        assert await here.jobs() == []
        await here.turn(2)
        [job] = await here.jobs()
        assert '"beam_size":1' in job["options"]


# --- identity


async def test_a_file_that_is_known_is_not_taken_again(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        here.put("a.wav")
        await here.turn()
        await here.turn(2)
        here.intake = here.another()
        await here.turn()
        assert here.intake.idle
        assert len(await here.jobs()) == 1


async def test_the_same_bytes_again_are_skipped_and_others_replace(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        file = here.put("a.wav", b"one")
        await here.turn()
        await here.turn(2)
        os.utime(file, (5, 5))
        await here.intake.rescan_all()
        await here.turn()
        await here.turn(2)
        other = here.put("other.tmp", b"two")
        other.replace(file)
        await here.intake.rescan_all()
        await here.turn()
        await here.turn(2)
        jobs = await here.jobs()
        assert [(job["status"], job["error_code"]) for job in jobs] == [
            ("cancelled", "source_replaced"),
            ("skipped", None),
            ("pending", None),
        ]
        assert jobs[1]["duplicate_of"] == jobs[0]["job_id"]


@posix
async def test_hostile_names_become_jobs_like_any_other(tmp_path: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-rf.wav",
        b"\xff\xfe.wav",
        b"n" * 251 + b".wav",
        "\u00e9.wav".encode(),
        b"e\xcc\x81.wav",
    ]
    names += [b"\xff-folder/a.wav", b"a\nfolder/a.wav"]
    async with by_hand(tmp_path) as here:
        for name in names:
            here.put(name)
        await here.turn()
        await here.turn(2)
        jobs = await here.jobs()
        assert {job["path_raw"] for job in jobs} == set(names)
        assert {job["status"] for job in jobs} == {"pending"}
        assert {job["batch"] for job in jobs} == {"inbox", "\\xff-folder", "a\nfolder"}


@posix
async def test_pipes_and_links_out_are_never_jobs(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(b"secret")
    async with running(tmp_path) as here:
        os.mkfifo(here.inbox / "pipe.wav")
        (here.inbox / "link.wav").symlink_to(tmp_path / "secret.wav")
        (here.inbox / "folder").symlink_to(tmp_path)
        here.put("a.wav")
        await here.has(1)
        assert await here.statuses() == [("a.wav", "pending")]


async def test_a_huge_file_holds_up_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        with (here.inbox / "huge.wav").open("wb") as file:
            file.truncate(8 * 1024**4)  # sparse; to read it takes hours
        doors = here.intake._pipelines.values()
        await eventually(
            lambda: any(pipeline.admission._workers for pipeline in doors),
            "the huge file to be read",
        )
        for number in range(40):
            here.put(f"{number}.wav")
        deadline = time.monotonic() + PATIENCE_S
        while len(await here.jobs()) < 40:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert not here.intake.idle
        started = time.monotonic()
        await here.intake.stop()
        assert time.monotonic() - started < PATIENCE_S


# --- events and scans, with the services running


async def test_files_that_were_there_and_files_that_come_are_each_one_job(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "old").mkdir(parents=True)
    (tmp_path / "inbox" / "old" / "a.wav").write_bytes(b"old")
    async with running(tmp_path) as here:
        await here.has(1)
        here.put("new/b.wav")
        (tmp_path / "c.wav").write_bytes(b"c")
        (tmp_path / "c.wav").rename(here.inbox / "c.wav")
        await here.has(3)
        assert {path for path, _ in await here.statuses()} == {"old/a.wav", "new/b.wav", "c.wav"}


async def test_a_folder_moved_in_with_its_files(tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/deep/b.wav", "x/deep/er/c.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    async with running(tmp_path) as here:
        await here.has(0)
        (tmp_path / "x").rename(here.inbox / "x")
        await here.has(3)


async def test_a_slow_writer_is_waited_for(tmp_path: Path) -> None:
    async with by_hand(tmp_path) as here:
        with (here.inbox / "a.wav").open("wb", buffering=0) as file:
            for _ in range(30):
                file.write(b"more")
                await here.turn(0.1)
            assert await here.jobs() == []
        for _ in range(10):
            await here.turn(2)
        assert [job["size"] for job in await here.jobs()] == [120]


async def test_thousands_at_once_are_each_exactly_one_job(tmp_path: Path) -> None:
    for folder in "abcd":
        (tmp_path / "many" / folder).mkdir(parents=True)
        for number in range(500):
            (tmp_path / "many" / folder / f"{number}.wav").write_bytes(f"{folder}{number}".encode())
    async with running(tmp_path) as here:
        await asyncio.to_thread(shutil.copytree, tmp_path / "many", here.inbox / "many")
        await here.has(2000, patience_s=60)
        jobs = await here.jobs()
        assert len({job["path"] for job in jobs}) == 2000
        assert {job["status"] for job in jobs} == {"pending"}


async def test_a_missing_inbox_pauses_loses_nothing_and_comes_back(tmp_path: Path) -> None:
    second = InboxSettings(name="second", path=tmp_path / "second", outbox=tmp_path / "out2")
    second.path.mkdir()
    first = InboxSettings(path=tmp_path / "inbox", outbox=tmp_path / "out")
    async with running(tmp_path, inboxes=(first, second)) as here:
        here.put("a.wav")
        await here.has(1)
        here.inbox.rename(tmp_path / "away")
        await eventually(lambda: AWAY in here.pauses, "the pause")
        (second.path / "b.wav").write_bytes(b"b")
        await here.has(2)
        assert await here.statuses() == [("a.wav", "pending"), ("b.wav", "pending")]
        here.inbox.mkdir()
        shutil.copy2(tmp_path / "away" / "a.wav", here.inbox / "c.wav")
        await eventually(lambda: AWAY not in here.pauses, "the return")
        await here.has(3)
        here.put("d.wav")
        await here.has(4)


async def test_an_inbox_that_is_missing_at_the_start_is_no_reason_not_to_start(
    tmp_path: Path,
) -> None:
    first = InboxSettings(path=tmp_path / "nowhere", outbox=tmp_path / "out")
    async with running(tmp_path, inboxes=(first,)) as here:
        await eventually(lambda: AWAY in here.pauses, "the pause")
        assert here.intake.idle
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere" / "a.wav").write_bytes(b"a")
        await eventually(lambda: AWAY not in here.pauses, "the return")
        await here.has(1)


async def test_scans_alone_find_everything_where_there_are_no_events(tmp_path: Path) -> None:
    watch = WatchSettings(settle_s=0.2, poll="always", poll_s=0.5)
    async with running(tmp_path, watch=watch) as here:
        await here.has(0)
        here.put("a.wav")
        here.put("deep/b.wav")
        await eventually(lambda: not here.intake.idle, "the scan")
        await here.has(2)
        assert '"events": false' in await here.state()


async def test_lost_events_bring_a_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with by_hand(tmp_path) as here:
        await here.turn()
        await here.deafen()
        here.put("a.wav")
        await here.turn(2)
        assert here.intake.idle
        logging.getLogger("watchdog").warning(
            "Inotify queue overflowed; filesystem events were lost"
        )
        await eventually(lambda: "dropped events" in caplog.text, "the news")
        await here.turn()
        await here.turn(2)
        assert await here.statuses() == [("a.wav", "pending")]


async def test_events_lost_while_a_scan_runs_bring_another_scan(tmp_path: Path) -> None:
    class Busy(Through):
        scans = 0

        async def read(self, query: Callable[..., Any], *about: Any) -> object:
            self.scans += query is find_unknown_files
            if query is find_unknown_files and self.scans == 1:
                logging.getLogger("watchdog").warning(
                    "Inotify queue overflowed; filesystem events were lost"
                )
                await asyncio.sleep(0.05)
            return await self._ledger.read(query, *about)

    async with by_hand(tmp_path) as here:
        here.put("a.wav")
        busy = Busy(here.ledger)
        here.intake = here.another(ledger=busy)
        await here.turn()
        await here.turn(0.1)
        assert busy.scans == 2
        await here.turn(0.1)
        assert busy.scans == 2


async def test_files_without_an_event_make_the_watcher_new_and_scans_frequent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with by_hand(tmp_path, watch=WatchSettings(rescan_s=100, poll_s=7)) as here:
        await here.turn()
        assert '"scan_every_s": 100' in await here.state()
        await here.deafen()
        here.put("a.wav")
        await here.turn(100)
        await here.turn(2)
        assert await here.statuses() == [("a.wav", "pending")]
        await here.turn(2)
        assert "without an event" in caplog.text
        assert '"scan_every_s": 7' in await here.state()
        assert here.watcher._observer is not None
        await here.turn(101)
        assert '"scan_every_s": 100' in await here.state()


# --- the ledger


class FullDisk(Through):
    """The ledger, with a disk that is full for a while."""

    full = True

    async def write(self, operation: Callable[..., Any], *about: Any, **more: Any) -> object:
        if self.full and operation is add_jobs:
            raise LedgerUnwritable("the disk is full")
        return await self._ledger.write(operation, *about, **more)


async def test_files_wait_for_a_ledger_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with by_hand(tmp_path) as here:
        disk = FullDisk(here.ledger)
        here.intake = here.another(ledger=disk)
        here.put("a.wav")
        await here.turn()
        await here.turn(2)
        await here.turn(2)
        assert "the disk is full" in caplog.text
        assert not here.intake.idle
        assert await here.jobs() == []
        disk.full = False
        await here.turn(5)
        assert await here.statuses() == [("a.wav", "pending")]
        assert here.intake.idle


async def test_stopping_and_starting_again_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for number in range(300):
            here.put(f"{number}.wav")
        await here.intake.stop()
        await here.intake.stop()
        here.intake = here.another()
        await here.intake.start()
        await here.has(300)
