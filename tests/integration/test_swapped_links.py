"""A folder alternates with a link.

Nothing outside is read or written, and refused work is done later.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from speakeasyd.config.settings import WatchSettings
from speakeasyd.domain.debounce import AccessProblem
from speakeasyd.domain.job import EndedJob, JobId, Signature
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.errors import ErrorCode, FileFault, OutboxUnavailable
from speakeasyd.inbox import file_identity
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import scan_inbox
from speakeasyd.outbox.publish import Outbox
from speakeasyd.outbox.source_folder import Kept, SourceFolder, delete_source

pytestmark = pytest.mark.skipif(os.name == "nt", reason="it takes calls that Windows lacks")

SWAP_S = 1.0  # seconds of alternation
INSIDE, OUTSIDE = b"inside", b"secret"  # of equal size


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "a.wav").write_bytes(OUTSIDE)
    return folder


@contextmanager
def alternate_with_link(folder: Path, other: Path) -> Iterator[None]:
    """Replace a folder by a link to `other` and back, until the block ends."""
    stopped = threading.Event()
    kept = folder.with_name("kept aside")

    def swap() -> None:
        number = count()
        while not stopped.is_set():
            folder.rename(kept)
            with suppress(FileExistsError):
                folder.symlink_to(other)
                folder.unlink()
            while kept.exists():
                try:
                    kept.rename(folder)
                except OSError:  # the folder was created again meanwhile
                    folder.rename(folder.with_name(f"made {next(number)}"))

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def repeat_call(call: Callable[[int], object]) -> int:
    """Repeat the call until the time is over. Returns the number of calls."""
    deadline = time.monotonic() + SWAP_S
    number = 0
    while time.monotonic() < deadline:
        call(number)
        number += 1
    return number


def make_inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox" / "talks").mkdir(parents=True)
    (tmp_path / "inbox" / "talks" / "a.wav").write_bytes(INSIDE)
    return tmp_path / "inbox"


def read_signature(path: Path) -> Signature:
    return Signature.of(path.stat())


def test_the_intake_finds_nothing_outside(tmp_path: Path, outside: Path) -> None:
    inbox = make_inbox(tmp_path)
    (outside / "only outside.wav").write_bytes(OUTSIDE)
    true = read_signature(inbox / "talks" / "a.wav")
    false = read_signature(outside / "a.wav")
    rules = InboxRules(WatchSettings())

    def observe(_number: int) -> None:
        seen = file_identity.observe_file(inbox, b"talks/a.wav")
        assert isinstance(seen, AccessProblem) or seen.file == true
        found = file_identity.hash_file(inbox, b"talks/a.wav", false, stopped=lambda: False)
        assert isinstance(found, AccessProblem)
        sightings = scan_inbox(inbox, rules, on_error=lambda path, error: None)
        assert all(b"only" not in one.path for one in sightings)

    with alternate_with_link(inbox / "talks", outside):
        assert repeat_call(observe)
    assert file_identity.observe_file(inbox, b"talks/a.wav") == file_identity.Observation(true)


def test_a_worker_reads_nothing_outside(tmp_path: Path, outside: Path) -> None:
    inbox = make_inbox(tmp_path)
    path = inbox / "talks" / "a.wav"

    def read(_number: int) -> None:
        try:
            with MediaFile(str(path), root=str(inbox)) as source:
                assert source.file.read() == INSIDE
        except FileFault as fault:
            codes.add(fault.code)

    codes: set[ErrorCode] = set()
    with alternate_with_link(inbox / "talks", outside):
        assert repeat_call(read)
    assert codes <= {ErrorCode.SOURCE_LINKED, ErrorCode.SOURCE_MISSING}
    codes.clear()
    read(0)
    assert not codes


def test_the_outbox_writes_and_removes_nothing_outside(tmp_path: Path, outside: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.prepare_folder()
    (tmp_path / "outbox" / "talks").mkdir()
    written = []

    def write(number: int) -> None:
        with suppress(OutboxUnavailable):  # it is tried again later
            outbox.write_files({f"talks/{number}.txt": b"text"})
            written.append(number)
        with suppress(OutboxUnavailable):
            assert outbox.hash_existing("talks/a.wav") is None
        with suppress(OutboxUnavailable):
            outbox.remove_file("talks/a.wav", hashes={"no hash of it"})
            outbox.prepare_folder()

    with alternate_with_link(tmp_path / "outbox" / "talks", outside):
        repeat_call(write)
    write(-1)
    assert [path.name for path in outside.iterdir()] == ["a.wav"]
    assert (outside / "a.wav").read_bytes() == OUTSIDE
    found = {path.name for path in (tmp_path / "outbox").rglob("*.txt")}
    assert found >= {f"{number}.txt" for number in written}


def make_source(inbox: Path, number: int) -> EndedJob:
    path = inbox / "talks" / f"{number}.wav"
    path.write_bytes(INSIDE)
    sha256 = hashlib.sha256(INSIDE).hexdigest()
    return EndedJob(
        JobId(number),
        os.fsencode(path.relative_to(inbox)),
        read_signature(path),
        sha256,
        None,
        frozenset(),
    )


def test_the_archive_moves_nothing_elsewhere(tmp_path: Path, outside: Path) -> None:
    inbox = make_inbox(tmp_path)
    archive = SourceFolder(tmp_path / "archive")
    archive.prepare_folder()
    (tmp_path / "archive" / "talks").mkdir()
    refused: list[EndedJob] = []

    def move(ended: EndedJob) -> None:
        try:
            assert not isinstance(archive.move_source(inbox, ended, note="a note"), Kept)
        except OutboxUnavailable:
            refused.append(ended)

    with alternate_with_link(tmp_path / "archive" / "talks", outside):
        moves = repeat_call(lambda number: move(make_source(inbox, number)))
    again, refused = refused, []
    for ended in again:
        move(ended)
    assert refused == []
    assert [path.name for path in outside.iterdir()] == ["a.wav"]
    moved = {path.name for path in (tmp_path / "archive").rglob("*.wav")}
    assert moved == {f"{number}.wav" for number in range(moves)}


def test_nothing_outside_is_moved_or_deleted(tmp_path: Path, outside: Path) -> None:
    """The link leads to a file with the bytes and times of the source."""
    inbox = make_inbox(tmp_path)
    archive = SourceFolder(tmp_path / "archive")
    archive.prepare_folder()
    victims = []
    jobs = []
    for number in range(300):
        jobs.append(make_source(inbox, number))
        victim = outside / f"{number}.wav"
        os.link(inbox / "talks" / f"{number}.wav", victim)
        victims.append(victim)
    with alternate_with_link(inbox / "talks", outside):
        for number, ended in enumerate(jobs):
            with suppress(OSError, FileFault, OutboxUnavailable):
                if number % 2:
                    delete_source(inbox, ended)
                else:
                    archive.move_source(inbox, ended)
    assert [victim.name for victim in victims if not victim.is_file()] == []
