"""Whether a file is open for writing, by the real kernel."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speakeasyd.cli.why import investigate_file
from speakeasyd.config import Settings
from speakeasyd.domain.debounce import OpenFile, Openness
from speakeasyd.openness import find_writer, judge_openness, name_writer
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
WRITE_OFTEN = """
import os, sys
print("ready", flush=True)
for _ in range(500):
    os.close(os.open(sys.argv[1], os.O_WRONLY))
"""
AS_NOBODY = "import os, sys; from speakeasyd.openness import judge_openness; os.setgid(65534); os.setuid(65534); "
CHECK_PROGRAM = "print(judge_openness(sys.argv[1]).value)"
HOLD_PROGRAM = "held = open(sys.argv[1], 'ab'); "


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"sound")
    return path


def test_a_file_is_open_while_a_process_can_write_to_it(file: Path) -> None:
    assert judge_openness(file) is Openness.CLOSED
    assert find_writer(file) is None
    with file.open("ab"):
        assert judge_openness(file) is Openness.OPEN
        assert name_writer(file).endswith(f"(process {os.getpid()})")
        assert isinstance(find_writer(file), OpenFile)
    assert judge_openness(file) is Openness.CLOSED


def test_readers_do_not_count(file: Path) -> None:
    with file.open("rb"):
        assert judge_openness(file) is Openness.CLOSED


def test_a_writable_mapping_counts_without_its_descriptor(file: Path) -> None:
    with file.open("r+b") as opened:
        mapping = mmap.mmap(opened.fileno(), 5)
    assert judge_openness(file) is Openness.OPEN
    mapping.close()
    assert judge_openness(file) is Openness.CLOSED


def test_missing_and_special_files_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("gone.wav", "link.wav", "pipe.wav"):
        assert judge_openness(tmp_path / name) is Openness.UNKNOWN


def test_the_check_affects_neither_the_writer_nor_the_caller(file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_OFTEN, file], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        while writer.poll() is None:
            judge_openness(file)
    assert writer.returncode == 0


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="needs to act as another user"
)
def test_only_visible_writers_of_other_users_files_are_found(file: Path) -> None:
    for folder in file.parents:
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    file.chmod(0o666)

    def ask_as_nobody(code: str) -> str:
        command = [sys.executable, "-c", AS_NOBODY + code, str(file)]
        return subprocess.check_output(command, cwd=REPOSITORY, text=True).strip()

    with file.open("ab"):
        assert ask_as_nobody(CHECK_PROGRAM) == "unknown"
    assert ask_as_nobody(CHECK_PROGRAM) == "unknown"
    assert ask_as_nobody(HOLD_PROGRAM + CHECK_PROGRAM) == "open"


def test_why_reports_that_a_file_is_open_for_writing(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    state = {"state": tmp_path / "state", "inboxes": [{"path": inbox, "outbox": tmp_path / "out"}]}
    settings = Settings.model_validate(state)
    with (inbox / "talk.wav").open("wb") as file:
        file.write(b"RIFF")
        file.flush()
        report = investigate_file(settings, inbox / "talk.wav")
    assert any("still open for writing" in fact for fact in report.facts)
    report = investigate_file(settings, inbox / "talk.wav")
    assert not any("still open for writing" in fact for fact in report.facts)
