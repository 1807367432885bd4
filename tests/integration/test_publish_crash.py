"""Publication killed, or refused by the disk, at each of its system calls in turn; then taken up again."""

import asyncio
import hashlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from speakeasyd.domain.options import Options
from tests.conftest import PATIENCE_S
from tests.integration.publishing import (
    FORMATS,
    OUTAGE,
    Place,
    publish_all,
    publish_when_told,
    workshop,
)

WRITES = "write"  # of the outbox's files; SQLite uses another call
SYNCS = "fsync,fdatasync"  # of the outbox and of the ledger's commits
RENAMES = "rename,renameat,renameat2"
OTHERS = "unlink,unlinkat,mkdir,mkdirat"
MOST = 60  # calls of a kind; a publication needs far fewer
PROCESSES = multiprocessing.get_context(
    "forkserver"
)  # imports what is slow to import once, and forks from there
PROCESSES.set_forkserver_preload(["tests.integration.publishing"])


def strace_works() -> bool:
    strace = shutil.which("strace")
    return (
        strace is not None
        and subprocess.run([strace, "-qq", "-e", "trace=none", "true"], check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not strace_works(), reason="needs strace, and leave to use it"
    ),
]


EARLIER = ("json", "txt", "tsv")  # formats of the version that was published before


def stage(root: Path) -> Place:
    """A claimed, transcribed job of a daemon that is no more. An earlier version of its file was published."""
    place = Place(root, sources="archive")

    async def prepare() -> None:
        async with workshop(place, boot_id="before") as shop:
            place.drop("talks/monday.mp3", b"half of monday")
            [half] = await shop.ready(
                "talks/monday.mp3", text=" It is", options=Options(formats=EARLIER)
            )
            await shop.publisher.publish_job(half)
            place.drop("talks/monday.mp3", b"monday")
            await shop.ready("talks/monday.mp3")

    asyncio.run(prepare())
    return place


def publish_under(place: Place, inject: str) -> int | None:
    """The exit code of a publication into which a fault is injected; below zero for a signal."""
    theirs, ours = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=publish_when_told, args=(place, "during", theirs))
    child.start()
    calls, _ = inject.split(":", 1)
    command = [
        "strace",
        "-f",
        "-p",
        str(child.pid),
        "-o",
        os.devnull,
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={inject}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        assert "attached" in strace.stderr.readline()
        ours.send("go")
        child.join(timeout=PATIENCE_S)
    theirs.close()
    ours.close()
    return child.exitcode


def recorded(place: Place) -> dict[str, str]:
    """All SHA-256 that a path may have, of the artifacts that the ledger knows, intended or written."""
    connection = sqlite3.connect(place.root / "state" / "ledger.db")
    try:
        return dict(
            connection.execute(
                "SELECT path, sha256 || coalesce(replaces_sha256, '') FROM artifacts"
            ).fetchall()
        )
    finally:
        connection.close()


def assert_nothing_is_half_written(place: Place) -> None:
    known = recorded(place)
    assert (place.outbox / "talks" / "monday.txt").exists(), "there is a transcript at any time"
    for path in place.outbox.rglob("*"):
        if path.is_file() and path not in place.temporaries():
            relative = path.relative_to(place.outbox).as_posix()
            assert hashlib.sha256(path.read_bytes()).hexdigest() in known[relative], (
                f"{relative} is not whole"
            )
    sources = [*place.written("inbox").values(), *place.written("archive").values()]
    assert "monday" in sources, "the source is whole, here or there, or on its way"


def assert_taken_up(place: Place) -> None:
    asyncio.run(publish_all(place, "after"))
    assert sorted(place.written()) == sorted(f"talks/monday.{ending}" for ending in FORMATS)
    assert set(recorded(place)) == set(place.written())
    assert_nothing_is_half_written(place)
    assert place.temporaries() == []
    assert place.written("inbox") == {}
    assert place.written()["talks/monday.txt"] == "It is done.\n"
    assert place.written("archive") == {
        "talks/monday.mp3": "half of monday",
        "talks/monday (2).mp3": "monday",
    }


def rounds(
    root: Path, inject: Callable[[int], str], *, exactly: int | None = None
) -> list[int | None]:
    """Inject at the first call, the second, and so on until the program runs through untouched, or `exactly` times."""
    ends: list[int | None] = []
    for number in count(1):
        place = stage(root / str(number))
        ends.append(publish_under(place, inject(number)))
        assert_nothing_is_half_written(place)
        assert_taken_up(place)
        if number == (exactly or MOST) or (ends[-1] == 0 and not exactly):
            return ends
    raise AssertionError


@pytest.mark.parametrize("calls", [RENAMES, SYNCS, WRITES, OTHERS])
def test_killed_at_any_call_it_goes_on_where_it_was(tmp_path: Path, calls: str) -> None:
    ends = rounds(tmp_path, lambda number: f"{calls}:signal=KILL:when={number}")
    assert ends[-1] == 0, "the last round found no call to be killed at"
    assert len(ends) > 2
    assert set(ends[:-1]) == {-signal.SIGKILL}


@pytest.mark.parametrize(
    ("calls", "error"), [(SYNCS, "EIO"), (WRITES, "ENOSPC"), (RENAMES, "ENOSPC"), (OTHERS, "EROFS")]
)
def test_a_disk_that_refuses_any_call_leaves_nothing_half_written(
    tmp_path: Path, calls: str, error: str
) -> None:
    # Some refusals are passed over: of the removal of a draft that has been renamed, of the note which log belongs to
    # the ledger. The rounds after them may still meet others.
    tolerant = calls in {OTHERS, WRITES}
    ends = rounds(
        tmp_path,
        lambda number: f"{calls}:error={error}:when={number}",
        exactly=6 if tolerant else None,
    )
    assert OUTAGE in ends
