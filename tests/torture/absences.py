"""Folders that go away, fill up or become read-only under a running daemon: it says so, waits, goes on by itself."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from speakeasyd.testing import FaultScript
from tests.torture.kills import feed
from tests.torture.place import Place
from tests.torture.scenario import Run, Scenario

SMALL = 8  # MB
Away = Callable[[Path], Callable[[], object]]
"""Takes a folder away, or spoils it; what it returns puts it right again."""


def absent(run: Run, *, folder: str, away: Away, cause: str, mounted: bool) -> None:
    """In mid-work, three times in one daemon's life."""
    with (
        folder_of_its_own(run.scratch / "here", mounted=mounted) as here,
        run.place(**{folder: here}) as place,
    ):
        place.script(FaultScript(chunk_s=0.05))
        feed(place, run.dice)
        place.start()
        place.until(place.progress, "a chunk")
        for number in run.times(3, quick=1):
            feed(place, run.dice)
            put_right = away(here)
            try:
                told(place, "queue.paused", cause, number + 1)
            finally:
                put_right()
            began = time.monotonic()
            feed(place, run.dice)
            told(place, "queue.resumed", cause, number + 1)
            run.ready_s.append(time.monotonic() - began)
        place.wait_for_end()
        if place.stop() != 0 or place.starts != 1:
            run.complain("the daemon did not outlive it")
        if used := place.rows("SELECT path FROM jobs WHERE attempts > 1 OR crashes > 0"):
            run.complain(f"attempts were used up: {[row['path'] for row in used]}")


def told(place: Place, event: str, cause: str, times: int) -> None:
    place.until(lambda: place.told(event, cause) >= times, f"{event}: {cause}")


def renamed(folder: Path) -> Callable[[], object]:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    return lambda: elsewhere.rename(folder)


def unmounted(folder: Path) -> Callable[[], object]:
    """What was mounted there goes; an empty folder is what is left."""
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    mount("--move", str(folder), str(elsewhere))
    return lambda: mount("--move", str(elsewhere), str(folder))


def read_only(folder: Path) -> Callable[[], object]:
    mount("--bind", str(folder), str(folder))
    mount("-o", "remount,bind,ro", str(folder))
    return lambda: subprocess.run(("umount", str(folder)), check=True)


def full(folder: Path) -> Callable[[], object]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler.unlink


@contextmanager
def folder_of_its_own(folder: Path, *, mounted: bool) -> Iterator[Path]:
    """If need be on a small filesystem of its own."""
    folder.mkdir()
    if not mounted:
        yield folder
        return
    mount("-t", "tmpfs", "-o", f"size={SMALL}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)


def mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), check=True)


def may_mount() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return (
        subprocess.run(("unshare", "-m", "true"), check=False, capture_output=True).returncode == 0
    )


def _row(
    name: str, fault: str, folder: str, away: Away, *, mounted: bool = True, cause: str = ""
) -> Scenario:
    return Scenario(
        name,
        fault,
        lambda run: absent(run, folder=folder, away=away, cause=cause or folder, mounted=mounted),
        may_mount if mounted else lambda: True,
    )


SCENARIOS = (
    _row("away-inbox", "the inbox is renamed, then restored", "inbox", renamed, mounted=False),
    _row("away-inbox-mount", "the inbox is unmounted, then mounted again", "inbox", unmounted),
    _row("away-outbox", "the outbox is renamed, then restored", "outbox", renamed, mounted=False),
    _row("away-outbox-mount", "the outbox is unmounted, then mounted again", "outbox", unmounted),
    _row(
        "read-only-outbox", "the outbox becomes read-only, then writable again", "outbox", read_only
    ),
    _row("full-outbox", "the outbox is full, then has space again", "outbox", full),
    _row(
        "full-ledger",
        "the ledger's disk is full, then has space again",
        "state",
        full,
        cause="ledger",
    ),
)
