"""Makes folders of a running daemon unavailable, full or read-only for some time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from speakeasyd.testing import FaultScript
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.kills import drop_files
from tests.torture.scenario import Run, Scenario

MOUNT_MB = 8  # MB
TakeAway = Callable[[Path], Callable[[], object]]
"""Makes a folder unavailable. Returns a function that restores it."""


def make_unavailable_during_work(
    run: Run, *, folder: str, take_away: TakeAway, cause: str, mounted: bool
) -> None:
    """Make the folder unavailable three times while one daemon works."""
    with (
        create_folder(run.scratch / "folder", mounted=mounted) as path,
        run.create_daemon(**{folder: path}) as daemon,
    ):
        daemon.write_fault_script(FaultScript(chunk_s=0.05))
        drop_files(daemon, run.rng)
        daemon.start()
        daemon.wait_until(daemon.count_progress, "a chunk")
        for number in run.count_rounds(3, quick=1):
            drop_files(daemon, run.rng)
            restore = take_away(path)
            try:
                wait_for_log_event(daemon, "queue.paused", cause, number + 1)
            finally:
                restore()
            began = time.monotonic()
            drop_files(daemon, run.rng)
            wait_for_log_event(daemon, "queue.resumed", cause, number + 1)
            run.recovery_s.append(time.monotonic() - began)
        daemon.wait_for_all_jobs()
        if daemon.stop() != 0 or daemon.starts != 1:
            run.report_violation("the daemon did not survive it")
        run.check_attempts(daemon)


def wait_for_log_event(daemon: DaemonUnderTest, event: str, cause: str, times: int) -> None:
    daemon.wait_until(lambda: daemon.count_log_events(event, cause) >= times, f"{event}: {cause}")


def rename_folder(folder: Path) -> Callable[[], object]:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    return lambda: elsewhere.rename(folder)


def unmount_folder(folder: Path) -> Callable[[], object]:
    """Move the mount elsewhere, so that an empty folder remains."""
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    run_mount("--move", str(folder), str(elsewhere))
    return lambda: run_mount("--move", str(elsewhere), str(folder))


def make_read_only(folder: Path) -> Callable[[], object]:
    run_mount("--bind", str(folder), str(folder))
    run_mount("-o", "remount,bind,ro", str(folder))
    return lambda: subprocess.run(("umount", str(folder)), check=True)


def fill_disk(folder: Path) -> Callable[[], object]:
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
def create_folder(folder: Path, *, mounted: bool) -> Iterator[Path]:
    """Create a folder; with `mounted`, on a small file system of its own."""
    folder.mkdir()
    if not mounted:
        yield folder
        return
    run_mount("-t", "tmpfs", "-o", f"size={MOUNT_MB}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)


def run_mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), check=True)


def can_mount() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return (
        subprocess.run(("unshare", "-m", "true"), check=False, capture_output=True).returncode == 0
    )


def _build_scenario(
    name: str,
    fault: str,
    folder: str,
    take_away: TakeAway,
    *,
    mounted: bool = True,
    cause: str = "",
) -> Scenario:
    return Scenario(
        name,
        fault,
        lambda run: make_unavailable_during_work(
            run, folder=folder, take_away=take_away, cause=cause or folder, mounted=mounted
        ),
        can_mount if mounted else lambda: True,
    )


SCENARIOS = (
    _build_scenario(
        "away-inbox", "the inbox is renamed, then restored", "inbox", rename_folder, mounted=False
    ),
    _build_scenario(
        "away-inbox-mount", "the inbox is unmounted, then mounted again", "inbox", unmount_folder
    ),
    _build_scenario(
        "away-outbox",
        "the outbox is renamed, then restored",
        "outbox",
        rename_folder,
        mounted=False,
    ),
    _build_scenario(
        "away-outbox-mount", "the outbox is unmounted, then mounted again", "outbox", unmount_folder
    ),
    _build_scenario(
        "read-only-outbox",
        "the outbox becomes read-only, then writable again",
        "outbox",
        make_read_only,
    ),
    _build_scenario("full-outbox", "the outbox is full, then has space again", "outbox", fill_disk),
    _build_scenario(
        "full-ledger",
        "the ledger's disk is full, then has space again",
        "state",
        fill_disk,
        cause="ledger",
    ),
)
