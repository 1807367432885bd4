"""From files in an inbox to jobs in a real ledger, with real files, events and threads."""

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
from tests.conftest import PATIENCE_S, wait_until
from tests.ledgers import open_ledger

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel who writes")
posix = pytest.mark.skipif(sys.platform == "win32", reason="names and files that only POSIX has")

FAST_WATCHING = WatchSettings(settle_s=0.2)

MISSING_INBOX = PauseCause(PauseKind.INBOX, "inbox")


class IntakeSetup:
    """An inbox, its ledger, and the intake between them."""

    def __init__(self, *, root: Path, ledger: Ledger, clock: Clock, **settings: Any) -> None:
        self.inbox = root / "inbox"
        self.ledger = ledger
        self.clock = clock
        inboxes = settings.pop("inboxes", (InboxSettings(path=self.inbox, outbox=root / "outbox"),))
        self.settings = Settings(state=root, inboxes=inboxes, **settings)
        self.pauses = Pauses(ledger=ledger, hub=EventHub(), clock=clock)
        self.intake = self.create_intake()

    def create_intake(
        self, *, ledger: Any = None, uploads: UploadsUnderWay | None = None
    ) -> Intake:
        return Intake(
            settings=self.settings,
            ledger=ledger or self.ledger,
            pauses=self.pauses,
            main_loop=MainLoop(asyncio.get_running_loop()),
            clock=self.clock,
            uploads=uploads,
        )

    def write_file(self, name: str | bytes, data: bytes = b"") -> Path:
        file = self.inbox / os.fsdecode(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data or file.name.encode(errors="replace"))
        return file

    async def query_jobs(self) -> list[dict[str, Any]]:
        return query_readonly(
            self.ledger.path,
            "SELECT job_status.*, jobs.path_raw, jobs.size, jobs.duplicate_of, jobs.options FROM job_status "
            "JOIN jobs ON jobs.id = job_id ORDER BY job_id",
        )

    async def read_statuses(self) -> list[tuple[str, str]]:
        return [(job["path"], job["status"]) for job in await self.query_jobs()]

    async def wait_for_jobs(self, jobs: int, *, patience_s: float = PATIENCE_S) -> None:
        """Wait for this number of jobs, and until the intake is idle."""
        deadline = time.monotonic() + patience_s
        while (count := len(await self.query_jobs())) < jobs or not self.intake.idle:
            assert time.monotonic() < deadline, f"{count} of {jobs} jobs"
            await asyncio.sleep(0.02)
        assert count == jobs

    async def run_round(self, seconds: float = 0.0) -> None:
        """Advance the manual clock and run a round, and more while files are hashed."""
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

    async def silence_watcher(self) -> None:
        """Stop the events but not the watch, as some systems do."""
        await asyncio.to_thread(self.watcher.stop_watching)
        self.watcher._identity = self.watcher._read_folder_identity()
        self.watcher._overflows.attach()

    async def read_inbox_state(self, inbox: str = "inbox") -> Any:
        rows = query_readonly(
            self.ledger.path, "SELECT value FROM inbox_states WHERE inbox = ?", [inbox]
        )
        return rows[0]["value"] if rows else ""


@asynccontextmanager
async def create_setup(
    root: Path, *, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[IntakeSetup]:
    """Yield a setup with the services running, or with a manual clock and rounds of `run_round`."""
    clock = clock or SystemClock()
    (root / "inbox").mkdir(exist_ok=True)
    async with open_ledger(root / "ledger.db", clock=clock) as ledger:
        setup = IntakeSetup(root=root, ledger=ledger, clock=clock, **settings)
        try:
            yield setup
        finally:
            await setup.intake.stop()


@asynccontextmanager
async def run_intake(root: Path, **settings: Any) -> AsyncIterator[IntakeSetup]:
    async with create_setup(root, **{"watch": FAST_WATCHING, **settings}) as setup:
        await setup.intake.start()
        yield setup


@asynccontextmanager
async def run_by_rounds(root: Path, **settings: Any) -> AsyncIterator[IntakeSetup]:
    with pytest.MonkeyPatch.context() as patch:
        # only the manual clock counts, not the real time since a change
        patch.setattr(file_identity, "find_local_device", lambda _root: None)
        async with create_setup(root, clock=ManualClock(), **settings) as setup:
            yield setup


class LedgerProxy:
    """Passes calls to the real ledger; subclasses override some to inject faults."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)


# --- debounce


async def test_a_file_becomes_a_pending_job_after_two_observations(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav", b"sound")
        await setup.run_round()
        assert await setup.query_jobs() == []
        assert not setup.intake.idle
        await setup.run_round(1.9)
        assert await setup.query_jobs() == []
        await setup.run_round(0.1)
        [job] = await setup.query_jobs()
        assert (job["path"], job["status"], job["size"], job["batch"]) == (
            "a.wav",
            "pending",
            5,
            "inbox",
        )
        assert setup.intake.idle


async def test_an_old_date_does_not_shorten_the_debounce(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        os.utime(setup.write_file("a.wav"), (0, 0))
        await setup.run_round()
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        assert await setup.read_statuses() == [("a.wav", "pending")]


async def test_a_growing_file_becomes_one_job(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path, watch=WatchSettings(poll="always")) as setup:
        file = setup.write_file("a.wav", b"1")
        for _ in range(5):
            await setup.run_round(1.5)
            with file.open("ab") as more:
                more.write(b"more")
        await setup.run_round(1.5)
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        await setup.run_round(2)
        assert [job["size"] for job in await setup.query_jobs()] == [21]


async def test_a_preallocated_copy_waits_for_its_bytes(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        file = setup.write_file("a.wav", bytes(1000))
        for second in range(5):
            os.utime(file, ns=(second, second))  # as writing into it does
            await setup.run_round(1.5)
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        assert len(await setup.query_jobs()) == 1


async def test_an_empty_file_waits_and_then_fails(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav").write_bytes(b"")
        await setup.run_round()
        for _ in range(14):
            await setup.run_round(2)
        assert await setup.query_jobs() == []
        [waiting] = query_readonly(setup.ledger.path, "SELECT path, size, reason FROM arrivals")
        assert waiting == {"path": "a.wav", "size": 0, "reason": "it has zero bytes so far"}
        for _ in range(5):
            await setup.run_round(2)
        [job] = await setup.query_jobs()
        assert (job["status"], job["error_code"]) == ("failed", "empty_file")
        assert query_readonly(setup.ledger.path, "SELECT * FROM arrivals") == []
        await setup.intake.rescan_all()
        await setup.run_round(40)
        assert len(await setup.query_jobs()) == 1


@linux
async def test_a_file_open_for_writing_is_not_complete(
    tmp_path: Path,
) -> None:
    async with run_by_rounds(tmp_path) as setup:
        with setup.write_file("a.wav", b"half").open("ab") as writer:
            await setup.run_round()
            for _ in range(30):
                await setup.run_round(5)
            assert await setup.query_jobs() == []
            [waiting] = query_readonly(setup.ledger.path, "SELECT reason FROM arrivals")
            assert waiting["reason"].startswith("still open for writing by ")
            assert waiting["reason"].endswith(f"(process {os.getpid()})")
            writer.write(b" and the rest")
        for _ in range(4):
            await setup.run_round(5)
        assert [job["size"] for job in await setup.query_jobs()] == [17]


@linux
async def test_closing_an_unchanged_file_is_noticed(tmp_path: Path) -> None:
    async with run_intake(tmp_path) as setup:
        with setup.write_file("a.wav").open("ab"):
            await wait_until(lambda: _is_waiting_for_writer(setup), "the detection of the writer")
            assert await setup.query_jobs() == []
        await setup.wait_for_jobs(1)


@linux
async def test_an_open_empty_file_does_not_fail(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        file = setup.write_file("a.wav")
        file.write_bytes(b"")
        with file.open("ab") as writer:
            await setup.run_round()
            for _ in range(20):
                await setup.run_round(5)
            assert await setup.query_jobs() == []
            writer.write(b"sound")
        for _ in range(4):
            await setup.run_round(5)
        assert await setup.read_statuses() == [("a.wav", "pending")]


def _is_waiting_for_writer(setup: IntakeSetup) -> bool:
    arrivals = setup.admission._arrivals._by_path.values()
    return any(isinstance(arrival.stillness.trouble, OpenFile) for arrival in arrivals)


async def test_a_file_deleted_before_it_settles_gets_no_job(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        file = setup.write_file("a.wav")
        await setup.run_round()
        file.unlink()
        await setup.run_round(2)
        assert setup.intake.idle
        assert await setup.query_jobs() == []


async def test_a_file_changed_during_hashing_settles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = file_identity.hash_file
    changes: list[int] = []

    def hash_and_change(
        root: Path, path: bytes, expected: Signature, *, stopped: Callable[[], bool]
    ) -> str | AccessProblem:
        def change_once() -> bool:  # called after each block
            if not changes:
                with file.open("r+b") as other:
                    changes.append(other.write(b"x"))
            return stopped()

        return real(root, path, expected, stopped=change_once)

    monkeypatch.setattr(file_identity, "hash_file", hash_and_change)
    async with run_by_rounds(tmp_path) as setup:
        file = setup.write_file("a.wav", bytes(100))
        await setup.run_round()
        await setup.run_round(2)
        assert changes
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        assert await setup.read_statuses() == [("a.wav", "pending")]


# --- options


async def test_batch_preset_and_sidecar(tmp_path: Path) -> None:
    presets = {"calls": {"channels": "split", "beam_size": 2}}
    async with run_by_rounds(tmp_path, presets=presets) as setup:
        setup.write_file("calls/a.wav")
        setup.write_file("calls/deep/b.wav")
        setup.write_file("calls/b.wav.toml", b"beam_size = 1\nformats = ['docx']")
        setup.write_file("calls/b.wav")
        setup.write_file("other/c.wav")
        await setup.run_round()
        await setup.run_round(2)
        jobs = {job["path"]: job for job in await setup.query_jobs()}
        assert {path: (job["batch"], job["preset"]) for path, job in jobs.items()} == {
            "calls/a.wav": ("calls", "calls"),
            "calls/deep/b.wav": ("calls", "calls"),
            "calls/b.wav": ("calls", "calls"),
            "other/c.wav": ("other", None),
        }
        [claimed] = [
            job for job in await setup.ledger.write(claim_jobs, 4) if job.path == b"calls/b.wav"
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
async def test_a_bad_sidecar_fails_only_its_file(
    tmp_path: Path, sidecar: bytes, words: list[str]
) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav.toml", sidecar)
        setup.write_file("a.wav")
        setup.write_file("b.wav")
        await setup.run_round()
        await setup.run_round(2)
        jobs = {job["path"]: job for job in await setup.query_jobs()}
        assert (jobs["a.wav"]["status"], jobs["a.wav"]["error_code"]) == ("failed", "bad_sidecar")
        assert all(word in jobs["a.wav"]["error"] for word in words)
        assert jobs["b.wav"]["status"] == "pending"


async def test_a_file_with_a_fixed_sidecar_is_retried_once_touched(
    tmp_path: Path,
) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav.toml", b"nonsense")
        file = setup.write_file("a.wav")
        await setup.run_round()
        await setup.run_round(2)
        setup.write_file("a.wav.toml", b"beam_size = 1")
        os.utime(file, (5, 5))
        await setup.intake.rescan_all()
        await setup.run_round()
        await setup.run_round(2)
        assert await setup.read_statuses() == [("a.wav", "failed"), ("a.wav", "pending")]


async def test_a_file_waits_for_an_unsettled_sidecar(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav")
        await setup.run_round()
        await setup.run_round(1)
        setup.write_file("a.wav.toml", b"beam_size = 1")
        await setup.run_round(1)
        assert await setup.query_jobs() == []
        await setup.run_round(2)
        [job] = await setup.query_jobs()
        assert '"beam_size":1' in job["options"]


# --- identity


async def test_a_known_file_is_not_added_again(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav")
        await setup.run_round()
        await setup.run_round(2)
        setup.intake = setup.create_intake()
        await setup.run_round()
        assert setup.intake.idle
        assert len(await setup.query_jobs()) == 1


async def test_equal_bytes_are_skipped_and_new_ones_replace(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        file = setup.write_file("a.wav", b"one")
        await setup.run_round()
        await setup.run_round(2)
        os.utime(file, (5, 5))
        await setup.intake.rescan_all()
        await setup.run_round()
        await setup.run_round(2)
        other = setup.write_file("other.tmp", b"two")
        other.replace(file)
        await setup.intake.rescan_all()
        await setup.run_round()
        await setup.run_round(2)
        jobs = await setup.query_jobs()
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
    async with run_by_rounds(tmp_path) as setup:
        for name in names:
            setup.write_file(name)
        await setup.run_round()
        await setup.run_round(2)
        jobs = await setup.query_jobs()
        assert {job["path_raw"] for job in jobs} == set(names)
        assert {job["status"] for job in jobs} == {"pending"}
        assert {job["batch"] for job in jobs} == {"inbox", "\\xff-folder", "a\nfolder"}


@posix
async def test_pipes_and_links_out_are_never_jobs(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(b"secret")
    async with run_intake(tmp_path) as setup:
        os.mkfifo(setup.inbox / "pipe.wav")
        (setup.inbox / "link.wav").symlink_to(tmp_path / "secret.wav")
        (setup.inbox / "folder").symlink_to(tmp_path)
        setup.write_file("a.wav")
        await setup.wait_for_jobs(1)
        assert await setup.read_statuses() == [("a.wav", "pending")]


async def test_a_huge_file_delays_no_other(tmp_path: Path) -> None:
    async with run_intake(tmp_path) as setup:
        with (setup.inbox / "huge.wav").open("wb") as file:
            file.truncate(8 * 1024**4)  # sparse; hashing it takes hours
        doors = setup.intake._pipelines.values()
        await wait_until(
            lambda: any(pipeline.admission._workers for pipeline in doors),
            "the start of hashing",
        )
        for number in range(40):
            setup.write_file(f"{number}.wav")
        deadline = time.monotonic() + PATIENCE_S
        while len(await setup.query_jobs()) < 40:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert not setup.intake.idle
        started = time.monotonic()
        await setup.intake.stop()
        assert time.monotonic() - started < PATIENCE_S


# --- events and scans, with the services running


async def test_present_and_new_files_become_one_job_each(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "old").mkdir(parents=True)
    (tmp_path / "inbox" / "old" / "a.wav").write_bytes(b"old")
    async with run_intake(tmp_path) as setup:
        await setup.wait_for_jobs(1)
        setup.write_file("new/b.wav")
        (tmp_path / "c.wav").write_bytes(b"c")
        (tmp_path / "c.wav").rename(setup.inbox / "c.wav")
        await setup.wait_for_jobs(3)
        assert {path for path, _ in await setup.read_statuses()} == {
            "old/a.wav",
            "new/b.wav",
            "c.wav",
        }


async def test_a_folder_moved_in_with_its_files(tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/deep/b.wav", "x/deep/er/c.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    async with run_intake(tmp_path) as setup:
        await setup.wait_for_jobs(0)
        (tmp_path / "x").rename(setup.inbox / "x")
        await setup.wait_for_jobs(3)


async def test_a_slow_writer_is_waited_for(tmp_path: Path) -> None:
    async with run_by_rounds(tmp_path) as setup:
        with (setup.inbox / "a.wav").open("wb", buffering=0) as file:
            for _ in range(30):
                file.write(b"more")
                await setup.run_round(0.1)
            assert await setup.query_jobs() == []
        for _ in range(10):
            await setup.run_round(2)
        assert [job["size"] for job in await setup.query_jobs()] == [120]


async def test_thousands_of_files_become_one_job_each(tmp_path: Path) -> None:
    for folder in "abcd":
        (tmp_path / "many" / folder).mkdir(parents=True)
        for number in range(500):
            (tmp_path / "many" / folder / f"{number}.wav").write_bytes(f"{folder}{number}".encode())
    async with run_intake(tmp_path) as setup:
        await asyncio.to_thread(shutil.copytree, tmp_path / "many", setup.inbox / "many")
        await setup.wait_for_jobs(2000, patience_s=60)
        jobs = await setup.query_jobs()
        assert len({job["path"] for job in jobs}) == 2000
        assert {job["status"] for job in jobs} == {"pending"}


async def test_a_missing_inbox_is_paused_and_loses_nothing(tmp_path: Path) -> None:
    second = InboxSettings(name="second", path=tmp_path / "second", outbox=tmp_path / "out2")
    second.path.mkdir()
    first = InboxSettings(path=tmp_path / "inbox", outbox=tmp_path / "out")
    async with run_intake(tmp_path, inboxes=(first, second)) as setup:
        setup.write_file("a.wav")
        await setup.wait_for_jobs(1)
        setup.inbox.rename(tmp_path / "away")
        await wait_until(lambda: MISSING_INBOX in setup.pauses, "the pause")
        (second.path / "b.wav").write_bytes(b"b")
        await setup.wait_for_jobs(2)
        assert await setup.read_statuses() == [("a.wav", "pending"), ("b.wav", "pending")]
        setup.inbox.mkdir()
        shutil.copy2(tmp_path / "away" / "a.wav", setup.inbox / "c.wav")
        await wait_until(lambda: MISSING_INBOX not in setup.pauses, "the end of the pause")
        await setup.wait_for_jobs(3)
        setup.write_file("d.wav")
        await setup.wait_for_jobs(4)


async def test_the_daemon_starts_without_its_inbox(
    tmp_path: Path,
) -> None:
    first = InboxSettings(path=tmp_path / "nowhere", outbox=tmp_path / "out")
    async with run_intake(tmp_path, inboxes=(first,)) as setup:
        await wait_until(lambda: MISSING_INBOX in setup.pauses, "the pause")
        assert setup.intake.idle
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere" / "a.wav").write_bytes(b"a")
        await wait_until(lambda: MISSING_INBOX not in setup.pauses, "the end of the pause")
        await setup.wait_for_jobs(1)


async def test_scans_find_all_files_without_events(tmp_path: Path) -> None:
    watch = WatchSettings(settle_s=0.2, poll="always", poll_s=0.5)
    async with run_intake(tmp_path, watch=watch) as setup:
        await setup.wait_for_jobs(0)
        setup.write_file("a.wav")
        setup.write_file("deep/b.wav")
        await wait_until(lambda: not setup.intake.idle, "the scan")
        await setup.wait_for_jobs(2)
        assert '"events": false' in await setup.read_inbox_state()


async def test_lost_events_cause_a_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with run_by_rounds(tmp_path) as setup:
        await setup.run_round()
        await setup.silence_watcher()
        setup.write_file("a.wav")
        await setup.run_round(2)
        assert setup.intake.idle
        logging.getLogger("watchdog").warning(
            "Inotify queue overflowed; filesystem events were lost"
        )
        await wait_until(lambda: "dropped events" in caplog.text, "the event")
        await setup.run_round()
        await setup.run_round(2)
        assert await setup.read_statuses() == [("a.wav", "pending")]


async def test_events_lost_during_a_scan_cause_another_scan(tmp_path: Path) -> None:
    class BusyLedger(LedgerProxy):
        scans = 0

        async def read(self, query: Callable[..., Any], *about: Any) -> object:
            self.scans += query is find_unknown_files
            if query is find_unknown_files and self.scans == 1:
                logging.getLogger("watchdog").warning(
                    "Inotify queue overflowed; filesystem events were lost"
                )
                await asyncio.sleep(0.05)
            return await self._ledger.read(query, *about)

    async with run_by_rounds(tmp_path) as setup:
        setup.write_file("a.wav")
        busy = BusyLedger(setup.ledger)
        setup.intake = setup.create_intake(ledger=busy)
        await setup.run_round()
        await setup.run_round(0.1)
        assert busy.scans == 2
        await setup.run_round(0.1)
        assert busy.scans == 2


async def test_files_without_events_restart_the_watcher(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_by_rounds(tmp_path, watch=WatchSettings(rescan_s=100, poll_s=7)) as setup:
        await setup.run_round()
        assert '"scan_every_s": 100' in await setup.read_inbox_state()
        await setup.silence_watcher()
        setup.write_file("a.wav")
        await setup.run_round(100)
        await setup.run_round(2)
        assert await setup.read_statuses() == [("a.wav", "pending")]
        await setup.run_round(2)
        assert "without an event" in caplog.text
        assert '"scan_every_s": 7' in await setup.read_inbox_state()
        assert setup.watcher._observer is not None
        await setup.run_round(101)
        assert '"scan_every_s": 100' in await setup.read_inbox_state()


# --- the ledger


class FullDisk(LedgerProxy):
    """A ledger whose disk is full for a while."""

    full = True

    async def write(self, operation: Callable[..., Any], *about: Any, **more: Any) -> object:
        if self.full and operation is add_jobs:
            raise LedgerUnwritable("the disk is full")
        return await self._ledger.write(operation, *about, **more)


async def test_files_wait_for_an_unwritable_ledger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_by_rounds(tmp_path) as setup:
        disk = FullDisk(setup.ledger)
        setup.intake = setup.create_intake(ledger=disk)
        setup.write_file("a.wav")
        await setup.run_round()
        await setup.run_round(2)
        await setup.run_round(2)
        assert "the disk is full" in caplog.text
        assert not setup.intake.idle
        assert await setup.query_jobs() == []
        disk.full = False
        await setup.run_round(5)
        assert await setup.read_statuses() == [("a.wav", "pending")]
        assert setup.intake.idle


async def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    async with run_intake(tmp_path) as setup:
        for number in range(300):
            setup.write_file(f"{number}.wav")
        await setup.intake.stop()
        await setup.intake.stop()
        setup.intake = setup.create_intake()
        await setup.intake.start()
        await setup.wait_for_jobs(300)
