"""JobArtifacts of two jobs that is killed, or fails, at each system call and is then continued."""

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
    PublicationFolders,
    open_publication_setup,
    publish_all_jobs,
    run_publisher_child,
)

WRITES = "write"  # to the outbox; SQLite uses another call
SYNCS = "fsync,fdatasync"  # in the outbox, and of the ledger's commits
RENAMES = "rename,renameat,renameat2"
OTHERS = "unlink,unlinkat,mkdir,mkdirat"
MAX_CALLS = 60  # a publication has far fewer calls of each kind
PROCESSES = multiprocessing.get_context("forkserver")  # slow imports happen once, before the forks
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
        sys.platform != "linux" or not strace_works(), reason="needs strace and the right to use it"
    ),
]


EARLIER_FORMATS = ("json", "txt", "tsv")  # of the earlier version


def prepare_publication(root: Path) -> PublicationFolders:
    """Prepare transcribed jobs of a dead daemon. An earlier version of one file is published."""
    folders = PublicationFolders(root, sources="archive")

    async def prepare() -> None:
        async with open_publication_setup(folders, boot_id="before") as setup:
            folders.create_source("talks/monday.mp3", b"half of monday")
            [earlier] = await setup.prepare_jobs(
                "talks/monday.mp3", text=" It is", options=Options(formats=EARLIER_FORMATS)
            )
            await setup.publisher.publish_job(earlier)
            folders.create_source("talks/monday.mp3", b"monday")
            folders.create_source("tuesday.mp3", b"tuesday")
            await setup.prepare_jobs("talks/monday.mp3", "tuesday.mp3")

    asyncio.run(prepare())
    return folders


def publish_with_fault(folders: PublicationFolders, inject: str) -> int | None:
    """Return the exit status of a publication with an injected fault; negative for a signal."""
    child_end, own_end = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=run_publisher_child, args=(folders, "during", child_end))
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
        own_end.send("go")
        child.join(timeout=PATIENCE_S)
    child_end.close()
    own_end.close()
    return child.exitcode


def read_artifact_hashes(folders: PublicationFolders) -> dict[str, str]:
    """Return the hashes that the file at each path may have, by the ledger."""
    connection = sqlite3.connect(folders.root / "state" / "ledger.db")
    try:
        return dict(
            connection.execute(
                "SELECT path, sha256 || coalesce(replaces_sha256, '') FROM artifacts"
            ).fetchall()
        )
    finally:
        connection.close()


def assert_files_are_complete(folders: PublicationFolders) -> None:
    known = read_artifact_hashes(folders)
    assert (folders.outbox / "talks" / "monday.txt").exists(), "there is always a transcript"
    for path in folders.outbox.rglob("*"):
        if path.is_file() and path not in folders.list_temporary_files():
            relative = path.relative_to(folders.outbox).as_posix()
            assert hashlib.sha256(path.read_bytes()).hexdigest() in known[relative], (
                f"{relative} is incomplete"
            )
    sources = [*folders.read_files("inbox").values(), *folders.read_files("archive").values()]
    assert {"monday", "tuesday"} <= set(sources), "each source is complete in one of the folders"


def assert_publication_continues(folders: PublicationFolders) -> None:
    asyncio.run(publish_all_jobs(folders, "after"))
    names = ("talks/monday", "tuesday")
    wanted = {f"{name}.{ending}" for name in names for ending in FORMATS}
    assert set(folders.read_files()) == wanted
    assert set(read_artifact_hashes(folders)) == set(folders.read_files())
    assert_files_are_complete(folders)
    assert folders.list_temporary_files() == []
    assert folders.read_files("inbox") == {}
    for name in names:
        assert folders.read_files()[f"{name}.txt"] == "It is done.\n"
    assert folders.read_files("archive") == {
        "talks/monday.mp3": "half of monday",
        "talks/monday (2).mp3": "monday",
        "tuesday.mp3": "tuesday",
    }


def inject_at_each_call(
    root: Path, inject: Callable[[int], str], *, exactly: int | None = None
) -> list[int | None]:
    """Inject at the first call, the second, and so on until there is no such call, or `exactly`
    times.
    """
    ends: list[int | None] = []
    for number in count(1):
        folders = prepare_publication(root / str(number))
        ends.append(publish_with_fault(folders, inject(number)))
        assert_files_are_complete(folders)
        assert_publication_continues(folders)
        if number == (exactly or MAX_CALLS) or (ends[-1] == 0 and not exactly):
            return ends
    raise AssertionError


@pytest.mark.parametrize("calls", [RENAMES, SYNCS, WRITES, OTHERS])
def test_a_publication_killed_at_any_call_is_continued(tmp_path: Path, calls: str) -> None:
    ends = inject_at_each_call(tmp_path, lambda number: f"{calls}:signal=KILL:when={number}")
    assert ends[-1] == 0, "the last run had no such call"
    assert len(ends) > 2
    assert set(ends[:-1]) == {-signal.SIGKILL}


@pytest.mark.parametrize(
    ("calls", "error"), [(SYNCS, "EIO"), (WRITES, "ENOSPC"), (RENAMES, "ENOSPC"), (OTHERS, "EROFS")]
)
def test_a_publication_with_any_failed_call_leaves_complete_files(
    tmp_path: Path, calls: str, error: str
) -> None:
    # Some failures are ignored: removing a renamed draft, writing which log belongs to
    # the ledger. Later calls may still fail the publication.
    tolerant = calls in {OTHERS, WRITES}
    ends = inject_at_each_call(
        tmp_path,
        # this call and all later ones: a job whose group fails is tried again alone
        lambda number: f"{calls}:error={error}:when={number}+",
        exactly=6 if tolerant else None,
    )
    assert OUTAGE in ends
