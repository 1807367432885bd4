"""Events of the real file system through a real observer's threads."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from speakeasyd.config import WatchSettings
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing
from speakeasyd.inbox.watcher import WatchChanges, Watcher
from speakeasyd.loop import MainLoop
from tests.conftest import REPOSITORY, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="as inotify has it")


class EventCollector:
    """Collects events as the daemon does: one scheduled call for any number of events."""

    def __init__(self, root: Path, rules: InboxRules | None = None) -> None:
        self.all = WatchChanges()
        self.calls = 0
        self.watcher = Watcher(
            root=root,
            rules=rules or InboxRules(WatchSettings()),
            main_loop=MainLoop(asyncio.get_running_loop()),
            on_changes=self._take_events,
        )

    async def _take_events(self) -> None:
        self.calls += 1
        news = self.watcher.take_changes()
        self.all.files.update(
            {path: done or self.all.files.get(path, False) for path, done in news.files.items()}
        )
        self.all.folders |= news.folders
        self.all.lost |= news.lost

    async def wait_for_path(self, *paths: bytes) -> None:
        await wait_until(
            lambda: self.all.files.keys() >= set(paths), f"events about {paths}, not {self.all}"
        )


@asynccontextmanager
async def run_watcher(root: Path, rules: InboxRules | None = None) -> AsyncIterator[EventCollector]:
    collector = EventCollector(root, rules)
    assert await asyncio.to_thread(collector.watcher.start_watching) is None
    try:
        yield collector
    finally:
        await asyncio.to_thread(collector.watcher.stop_watching)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    root.mkdir()
    return root


async def test_only_files_allowed_by_the_rules_are_reported(inbox: Path) -> None:
    async with run_watcher(inbox) as collector:
        (inbox / "notes.txt").write_bytes(b"x")
        (inbox / ".hidden").mkdir()
        (inbox / ".hidden" / "b.wav").write_bytes(b"x")
        (inbox / "a.wav").write_bytes(b"x")
        await collector.wait_for_path(b"a.wav")
        assert set(collector.all.files) == {b"a.wav"}
        assert not collector.all.folders


@linux
async def test_a_file_is_complete_when_closed_or_moved_in(inbox: Path, tmp_path: Path) -> None:
    async with run_watcher(inbox) as collector:
        with (inbox / "open.wav").open("wb") as file:
            file.write(b"x")
            file.flush()
            await collector.wait_for_path(b"open.wav")
            assert collector.all.files == {b"open.wav": False}
        await wait_until(lambda: collector.all.files[b"open.wav"], "the close event")
        (tmp_path / "from.wav").write_bytes(b"x")
        (tmp_path / "from.wav").rename(inbox / "moved.wav")
        (inbox / "c.wav.part").write_bytes(b"x")
        (inbox / "c.wav.part").rename(inbox / "c.wav")
        await collector.wait_for_path(b"moved.wav", b"c.wav")
        assert collector.all.files == {b"open.wav": True, b"moved.wav": True, b"c.wav": True}


async def test_a_new_folder_is_reported(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "talks" / "deep").mkdir(parents=True)
    (tmp_path / "talks" / "deep" / "a.wav").write_bytes(b"x")
    async with run_watcher(inbox) as collector:
        (tmp_path / "talks").rename(inbox / "talks")
        await wait_until(lambda: b"talks" in collector.all.folders, "the folder")


async def test_a_file_that_moves_out_is_not_reported(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.wav").write_bytes(b"x")
    async with run_watcher(inbox) as collector:
        (inbox / "a.wav").rename(tmp_path / "a.wav")
        (inbox / "b.wav").write_bytes(b"x")
        await collector.wait_for_path(b"b.wav")
        assert set(collector.all.files) == {b"b.wav"}


@linux
async def test_names_are_reported_as_bytes(inbox: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-rf.wav",
        b"\xff\xfe.wav",
        b"n" * 251 + b".wav",
        "\u00e9.wav".encode(),
        b"e\xcc\x81.wav",
    ]
    async with run_watcher(inbox) as collector:
        for name in names:
            (inbox / os.fsdecode(name)).write_bytes(b"x")
        await collector.wait_for_path(*names)
        assert set(collector.all.files) == set(names)


async def test_many_events_need_few_scheduled_calls(inbox: Path) -> None:
    async with run_watcher(inbox) as collector:
        for number in range(500):  # on the event loop, so no event is taken before all files exist
            (inbox / f"{number}.wav").write_bytes(b"x")
        await collector.wait_for_path(*(f"{number}.wav".encode() for number in range(500)))
        assert collector.calls < 100


async def test_a_root_created_again_is_watched_again(
    inbox: Path,
) -> None:
    async with run_watcher(inbox) as collector:
        assert collector.watcher.is_healthy()
        inbox.rmdir()
        assert not collector.watcher.is_healthy()
        with pytest.raises(InboxMissing):
            await asyncio.to_thread(collector.watcher.start_watching)
        inbox.mkdir()
        assert not collector.watcher.is_healthy()
        assert await asyncio.to_thread(collector.watcher.start_watching) is None
        assert collector.watcher.is_healthy()
        (inbox / "a.wav").write_bytes(b"x")
        await collector.wait_for_path(b"a.wav")


@linux
async def test_a_renamed_root_is_no_longer_the_inbox(inbox: Path, tmp_path: Path) -> None:
    async with run_watcher(inbox) as collector:
        inbox.rename(tmp_path / "other")
        inbox.mkdir()
        assert not collector.watcher.is_healthy()
        await asyncio.to_thread(collector.watcher.start_watching)
        (tmp_path / "other" / "wrong.wav").write_bytes(b"x")
        (inbox / "right.wav").write_bytes(b"x")
        await collector.wait_for_path(b"right.wav")
        assert set(collector.all.files) == {b"right.wav"}


async def test_an_inbox_that_is_a_link_is_watched_at_its_target(
    inbox: Path, tmp_path: Path
) -> None:
    try:
        (tmp_path / "link").symlink_to(inbox, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    async with run_watcher(tmp_path / "link") as collector:
        (inbox / "a.wav").write_bytes(b"x")
        await collector.wait_for_path(b"a.wav")
        other = tmp_path / "other"
        other.mkdir()
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(other, target_is_directory=True)
        assert not collector.watcher.is_healthy()


async def test_an_observer_that_has_ended_is_unhealthy(inbox: Path) -> None:
    collector = EventCollector(inbox)
    assert not collector.watcher.is_healthy()
    await asyncio.to_thread(collector.watcher.start_watching)
    assert collector.watcher.is_healthy()
    await asyncio.to_thread(collector.watcher.stop_watching)
    await asyncio.to_thread(collector.watcher.stop_watching)
    assert not collector.watcher.is_healthy()


class BrokenRules(InboxRules):
    """Rules with a defect."""

    def why_ignored(self, path: bytes) -> str | None:
        if path == b"bad.wav":
            raise RuntimeError(path)
        return super().why_ignored(path)


async def test_a_defect_in_the_handler_does_not_end_the_observer(
    inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_watcher(inbox, BrokenRules(WatchSettings())) as collector:
        (inbox / "bad.wav").write_bytes(b"x")
        await wait_until(lambda: "could not be noted" in caplog.text, "the warning")
        (inbox / "good.wav").write_bytes(b"x")
        await collector.wait_for_path(b"good.wav")
        assert collector.watcher.is_healthy()


@linux
async def test_an_event_that_watchdog_cannot_handle_makes_the_watcher_unhealthy(
    inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a queue overflow during moves of folders, watchdog's record of its watches is wrong."""
    async with run_watcher(inbox) as collector:
        (inbox / "folder").mkdir()
        await wait_until(lambda: b"folder" in collector.all.folders, "the folder")
        [group] = (emitter._inotify for emitter in collector.watcher._observer.emitters)  # type: ignore[union-attr,attr-defined] # the state that is broken
        group._active_callbacks_by_path.clear()
        (inbox / "folder").rmdir()
        await wait_until(lambda: "could not handle an event: KeyError" in caplog.text, "the log")
        assert not collector.watcher.is_healthy()
        assert await asyncio.to_thread(collector.watcher.start_watching) is None
        assert collector.watcher.is_healthy()
        (inbox / "a.wav").write_bytes(b"x")
        await collector.wait_for_path(b"a.wav")


async def test_lost_events_are_found_in_watchdogs_log(inbox: Path) -> None:
    async with run_watcher(inbox) as collector:
        logging.getLogger("watchdog.observers.inotify_c").warning(
            "Inotify queue overflowed; events were lost"
        )
        await wait_until(lambda: collector.all.lost, "the lost events")
    logging.getLogger("watchdog").warning("nobody listens any more")
    assert not collector.watcher.take_changes()


def test_a_closed_loop_raises_nothing_into_threads(inbox: Path) -> None:
    loop = asyncio.new_event_loop()

    async def ignore_events() -> None:
        raise AssertionError

    main_loop = MainLoop(loop)
    watcher = Watcher(
        root=inbox, rules=InboxRules(WatchSettings()), main_loop=main_loop, on_changes=ignore_events
    )
    watcher.start_watching()
    try:
        loop.close()
        (inbox / "a.wav").write_bytes(b"x")
        asyncio.run(wait_until(lambda: main_loop.dropped, "the event"))
        assert watcher.is_healthy()
        assert set(watcher.take_changes().files) == {b"a.wav"}, "kept for whoever asks"
    finally:
        watcher.stop_watching()


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("unshare"),
    reason="needs a user namespace of its own",
)
@pytest.mark.parametrize(
    ("limit", "word"), [("watches", "max_user_watches"), ("instances", "max_user_instances")]
)
def test_a_system_without_free_watches_gives_a_hint(inbox: Path, limit: str, word: str) -> None:
    for name in "abcd":
        (inbox / name).mkdir()
    code = """if True:
        import sys
        from pathlib import Path
        from speakeasyd.config import WatchSettings
        from speakeasyd.inbox.rules import InboxRules
        from speakeasyd.inbox.watcher import Watcher
        Path(f"/proc/sys/user/max_inotify_{sys.argv[2]}").write_text("3" if sys.argv[2] == "watches" else "0")
        watcher = Watcher(root=Path(sys.argv[1]), rules=InboxRules(WatchSettings()), main_loop=None, on_changes=None)
        print(watcher.start_watching(), "; healthy:", watcher.is_healthy())
        watcher.stop_watching()
    """
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        sys.executable,
        "-c",
        code,
        str(inbox),
        limit,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if "unshare" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    assert done.stdout.strip().endswith("healthy: True"), done.stderr
    assert word in done.stdout
