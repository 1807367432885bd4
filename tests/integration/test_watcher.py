"""Events of the real filesystem, through a real observer's threads."""

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
from tests.conftest import REPOSITORY, eventually

linux = pytest.mark.skipif(sys.platform != "linux", reason="as inotify has it")


class Ear:
    """Gathers the news as the daemon does: one hand-over for any number of events."""

    def __init__(self, root: Path, rules: InboxRules | None = None) -> None:
        self.all = WatchChanges()
        self.calls = 0
        self.watcher = Watcher(
            root=root,
            rules=rules or InboxRules(WatchSettings()),
            main_loop=MainLoop(asyncio.get_running_loop()),
            on_news=self._hear,
        )

    async def _hear(self) -> None:
        self.calls += 1
        news = self.watcher.take_changes()
        self.all.files.update(
            {path: done or self.all.files.get(path, False) for path, done in news.files.items()}
        )
        self.all.folders |= news.folders
        self.all.lost |= news.lost

    async def hears_of(self, *paths: bytes) -> None:
        await eventually(
            lambda: self.all.files.keys() >= set(paths), f"events about {paths}, not {self.all}"
        )


@asynccontextmanager
async def listening(root: Path, rules: InboxRules | None = None) -> AsyncIterator[Ear]:
    ear = Ear(root, rules)
    assert await asyncio.to_thread(ear.watcher.start_watching) is None
    try:
        yield ear
    finally:
        await asyncio.to_thread(ear.watcher.stop_watching)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    root.mkdir()
    return root


async def test_a_written_file_is_told_and_what_the_rules_leave_out_is_not(inbox: Path) -> None:
    async with listening(inbox) as ear:
        (inbox / "notes.txt").write_bytes(b"x")
        (inbox / ".hidden").mkdir()
        (inbox / ".hidden" / "b.wav").write_bytes(b"x")
        (inbox / "a.wav").write_bytes(b"x")
        await ear.hears_of(b"a.wav")
        assert set(ear.all.files) == {b"a.wav"}
        assert not ear.all.folders


@linux
async def test_a_file_is_finished_when_it_is_closed_or_moved_in_and_not_before(
    inbox: Path, tmp_path: Path
) -> None:
    async with listening(inbox) as ear:
        with (inbox / "open.wav").open("wb") as file:
            file.write(b"x")
            file.flush()
            await ear.hears_of(b"open.wav")
            assert ear.all.files == {b"open.wav": False}
        await eventually(lambda: ear.all.files[b"open.wav"], "the closing")
        (tmp_path / "from.wav").write_bytes(b"x")
        (tmp_path / "from.wav").rename(inbox / "moved.wav")
        (inbox / "c.wav.part").write_bytes(b"x")
        (inbox / "c.wav.part").rename(inbox / "c.wav")
        await ear.hears_of(b"moved.wav", b"c.wav")
        assert ear.all.files == {b"open.wav": True, b"moved.wav": True, b"c.wav": True}


async def test_a_folder_that_appears_is_told_whatever_is_in_it(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "talks" / "deep").mkdir(parents=True)
    (tmp_path / "talks" / "deep" / "a.wav").write_bytes(b"x")
    async with listening(inbox) as ear:
        (tmp_path / "talks").rename(inbox / "talks")
        await eventually(lambda: b"talks" in ear.all.folders, "the folder")


async def test_a_file_that_moves_out_is_no_news(inbox: Path, tmp_path: Path) -> None:
    (inbox / "a.wav").write_bytes(b"x")
    async with listening(inbox) as ear:
        (inbox / "a.wav").rename(tmp_path / "a.wav")
        (inbox / "b.wav").write_bytes(b"x")
        await ear.hears_of(b"b.wav")
        assert set(ear.all.files) == {b"b.wav"}


@linux
async def test_names_come_as_they_are(inbox: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-rf.wav",
        b"\xff\xfe.wav",
        b"n" * 251 + b".wav",
        "\u00e9.wav".encode(),
        b"e\xcc\x81.wav",
    ]
    async with listening(inbox) as ear:
        for name in names:
            (inbox / os.fsdecode(name)).write_bytes(b"x")
        await ear.hears_of(*names)
        assert set(ear.all.files) == set(names)


async def test_many_events_take_few_hand_overs(inbox: Path) -> None:
    async with listening(inbox) as ear:
        for number in range(500):  # on the loop: it cannot hear before they are all there
            (inbox / f"{number}.wav").write_bytes(b"x")
        await ear.hears_of(*(f"{number}.wav".encode() for number in range(500)))
        assert ear.calls < 100


async def test_a_root_that_is_deleted_and_made_again_is_noticed_and_watched_again(
    inbox: Path,
) -> None:
    async with listening(inbox) as ear:
        assert ear.watcher.is_healthy()
        inbox.rmdir()
        assert not ear.watcher.is_healthy()
        with pytest.raises(InboxMissing):
            await asyncio.to_thread(ear.watcher.start_watching)
        inbox.mkdir()
        assert not ear.watcher.is_healthy()
        assert await asyncio.to_thread(ear.watcher.start_watching) is None
        assert ear.watcher.is_healthy()
        (inbox / "a.wav").write_bytes(b"x")
        await ear.hears_of(b"a.wav")


@linux
async def test_a_root_that_was_renamed_is_not_the_inbox_any_more(
    inbox: Path, tmp_path: Path
) -> None:
    async with listening(inbox) as ear:
        inbox.rename(tmp_path / "other")
        inbox.mkdir()
        assert not ear.watcher.is_healthy()
        await asyncio.to_thread(ear.watcher.start_watching)
        (tmp_path / "other" / "wrong.wav").write_bytes(b"x")
        (inbox / "right.wav").write_bytes(b"x")
        await ear.hears_of(b"right.wav")
        assert set(ear.all.files) == {b"right.wav"}


async def test_an_inbox_that_is_a_link_is_watched_where_it_leads(
    inbox: Path, tmp_path: Path
) -> None:
    try:
        (tmp_path / "link").symlink_to(inbox, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    async with listening(tmp_path / "link") as ear:
        (inbox / "a.wav").write_bytes(b"x")
        await ear.hears_of(b"a.wav")
        other = tmp_path / "other"
        other.mkdir()
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(other, target_is_directory=True)
        assert not ear.watcher.is_healthy()


async def test_an_observer_that_has_ended_is_unhealthy(inbox: Path) -> None:
    ear = Ear(inbox)
    assert not ear.watcher.is_healthy()
    await asyncio.to_thread(ear.watcher.start_watching)
    assert ear.watcher.is_healthy()
    await asyncio.to_thread(ear.watcher.stop_watching)
    await asyncio.to_thread(ear.watcher.stop_watching)
    assert not ear.watcher.is_healthy()


class BrokenRules(InboxRules):
    """Rules with a defect."""

    def why_ignored(self, path: bytes) -> str | None:
        if path == b"bad.wav":
            raise RuntimeError(path)
        return super().why_ignored(path)


async def test_a_defect_in_the_handler_does_not_end_the_observer(
    inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(inbox, BrokenRules(WatchSettings())) as ear:
        (inbox / "bad.wav").write_bytes(b"x")
        await eventually(lambda: "could not be noted" in caplog.text, "the complaint")
        (inbox / "good.wav").write_bytes(b"x")
        await ear.hears_of(b"good.wav")
        assert ear.watcher.is_healthy()


@linux
async def test_an_event_that_watchdog_cannot_handle_makes_the_watcher_unhealthy(
    inbox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a queue overflow while folders are moved: its record of the watches is broken."""
    async with listening(inbox) as ear:
        (inbox / "folder").mkdir()
        await eventually(lambda: b"folder" in ear.all.folders, "the folder")
        [group] = (emitter._inotify for emitter in ear.watcher._observer.emitters)  # type: ignore[union-attr,attr-defined] # the state that is broken
        group._active_callbacks_by_path.clear()
        (inbox / "folder").rmdir()
        await eventually(lambda: "could not handle an event: KeyError" in caplog.text, "the log")
        assert not ear.watcher.is_healthy()
        assert await asyncio.to_thread(ear.watcher.start_watching) is None
        assert ear.watcher.is_healthy()
        (inbox / "a.wav").write_bytes(b"x")
        await ear.hears_of(b"a.wav")


async def test_lost_events_are_heard_of_in_watchdogs_log(inbox: Path) -> None:
    async with listening(inbox) as ear:
        logging.getLogger("watchdog.observers.inotify_c").warning(
            "Inotify queue overflowed; events were lost"
        )
        await eventually(lambda: ear.all.lost, "the loss")
    logging.getLogger("watchdog").warning("nobody listens any more")
    assert not ear.watcher.take_changes()


def test_a_loop_that_is_closed_or_not_running_harms_no_thread(inbox: Path) -> None:
    loop = asyncio.new_event_loop()

    async def nobody() -> None:
        raise AssertionError

    main_loop = MainLoop(loop)
    watcher = Watcher(
        root=inbox, rules=InboxRules(WatchSettings()), main_loop=main_loop, on_news=nobody
    )
    watcher.start_watching()
    try:
        loop.close()
        (inbox / "a.wav").write_bytes(b"x")
        asyncio.run(eventually(lambda: main_loop.dropped, "the event"))
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
def test_a_system_without_watches_left_says_how_to_get_more(
    inbox: Path, limit: str, word: str
) -> None:
    for name in "abcd":
        (inbox / name).mkdir()
    code = """if True:
        import sys
        from pathlib import Path
        from speakeasyd.config import WatchSettings
        from speakeasyd.inbox.rules import InboxRules
        from speakeasyd.inbox.watcher import Watcher
        Path(f"/proc/sys/user/max_inotify_{sys.argv[2]}").write_text("3" if sys.argv[2] == "watches" else "0")
        watcher = Watcher(root=Path(sys.argv[1]), rules=InboxRules(WatchSettings()), main_loop=None, on_news=None)
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
