"""The clock of a running daemon is set, for real: libfaketime moves the wall clock, and the monotonic one not."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import MEMO, Served, until

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


class Wall:
    """The wall clock of the daemon and of the commands."""

    def __init__(self, root: Path) -> None:
        self._file = root / "faketime"
        self.set("+0")
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        self._file.write_text(offset + "\n")


@pytest.fixture
def wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall(tmp_path)
    for name, value in wall.environment.items():
        monkeypatch.setenv(name, value)
    return wall


@pytest.fixture
def served(tmp_path: Path, wall: Wall) -> Iterator[Served]:
    served = Served(tmp_path, {})
    served.start()
    try:
        yield served
    finally:
        served.stop()


def drop(served: Served, name: str, tail: bytes = b"") -> None:
    """Other bytes each time, so that it is transcribed each time."""
    part = served.root / f"{name}.part"
    part.write_bytes(MEMO.read_bytes() + tail)
    part.rename(served.inbox / name)


def status_of(served: Served, name: str) -> str:
    found = [
        row["status"]
        for row in served.rows("SELECT path, status FROM job_status")
        if row["path"] == name
    ]
    return str(found[0]) if found else ""


def head_of_status(served: Served) -> str:
    command = [sys.executable, "-m", "speakeasyd", "status", "--state", str(served.state)]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    return found.stdout.splitlines()[0]


def test_files_go_on_being_transcribed_whatever_the_clock_says(served: Served, wall: Wall) -> None:
    drop(served, "first.flac")
    until(lambda: status_of(served, "first.flac") == "completed", "the first file")
    for number, offset in enumerate(["-2h", "-2d", "+2h", "+2d", "+0"]):
        wall.set(offset)
        name = f"file {number}.flac"
        drop(served, name, bytes([number + 1]) * 8)
        until(lambda name=name: status_of(served, name) == "completed", f"{name} at {offset}")
        assert served.post("/jobs/1/retry").status_code == 200
        until(lambda: status_of(served, "first.flac") == "completed", f"a retry at {offset}")
        assert re.search(r"up for \d+ (s|min)", head_of_status(served))


def test_after_a_restart_with_the_clock_set_back_what_waits_goes(
    served: Served, wall: Wall
) -> None:
    served.post("/pause")
    drop(served, "waits.flac")
    until(lambda: status_of(served, "waits.flac") == "pending", "the job")
    served.stop()
    wall.set("-2d")
    served.start()
    served.post("/resume")
    until(lambda: status_of(served, "waits.flac") == "completed", "the transcript")
