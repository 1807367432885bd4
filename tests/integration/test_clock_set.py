"""The wall clock of a running daemon is changed by libfaketime; the monotonic clock is not."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import poll_until
from tests.serving_daemon import VOICE_MEMO, ServingDaemon

LIBRARY = (
    next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if sys.platform == "linux"
    else None
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime"),
]


class WallClock:
    """The wall clock of the daemon and of commands."""

    def __init__(self, root: Path) -> None:
        self._file = root / "faketime"
        self.set_offset("+0")
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_offset(self, offset: str) -> None:
        self._file.write_text(offset + "\n")


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall_clock = WallClock(tmp_path)
    for name, value in wall_clock.environment.items():
        monkeypatch.setenv(name, value)
    return wall_clock


@pytest.fixture
def daemon(tmp_path: Path, wall_clock: WallClock) -> Iterator[ServingDaemon]:
    daemon = ServingDaemon(tmp_path, {})
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def drop_file(daemon: ServingDaemon, name: str, tail: bytes = b"") -> None:
    """Drop a file whose last bytes make it unique."""
    part = daemon.root / f"{name}.part"
    part.write_bytes(VOICE_MEMO.read_bytes() + tail)
    part.rename(daemon.inbox / name)


def read_job_status(daemon: ServingDaemon, name: str) -> str:
    found = [
        row["status"]
        for row in daemon.query_ledger("SELECT path, status FROM job_status")
        if row["path"] == name
    ]
    return str(found[0]) if found else ""


def read_status_headline(daemon: ServingDaemon) -> str:
    command = [sys.executable, "-m", "speakeasyd", "status", "--state", str(daemon.state)]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    return found.stdout.splitlines()[0]


def test_files_are_transcribed_after_every_change_of_the_clock(
    daemon: ServingDaemon, wall_clock: WallClock
) -> None:
    drop_file(daemon, "first.flac")
    poll_until(lambda: read_job_status(daemon, "first.flac") == "completed", "the first file")
    for number, offset in enumerate(["-2h", "+2d", "-2d"]):
        wall_clock.set_offset(offset)
        name = f"file {number}.flac"
        drop_file(daemon, name, bytes([number + 1]) * 8)
        poll_until(
            lambda name=name: read_job_status(daemon, name) == "completed", f"{name} at {offset}"
        )
        assert daemon.post("/jobs/1/retry").status_code == 200
        poll_until(
            lambda: read_job_status(daemon, "first.flac") == "completed", f"a retry at {offset}"
        )
        assert re.search(r"up for \d+ (s|min)", read_status_headline(daemon))


def test_pending_jobs_are_transcribed_after_a_restart_with_an_earlier_clock(
    daemon: ServingDaemon, wall_clock: WallClock
) -> None:
    daemon.post("/pause")
    drop_file(daemon, "waits.flac")
    poll_until(lambda: read_job_status(daemon, "waits.flac") == "pending", "the job")
    daemon.stop()
    wall_clock.set_offset("-2d")
    daemon.start()
    daemon.post("/resume")
    poll_until(lambda: read_job_status(daemon, "waits.flac") == "completed", "the transcript")
