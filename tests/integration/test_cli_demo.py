"""Commands that start the daemon, with real speech."""

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from speakeasyd.cli.demo import _ProgressDisplay
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.events import Event
from speakeasyd.logs import EventLogger
from tests.conftest import PATIENCE_S

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).parents[2]


def run_command(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "speakeasyd", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"} | environ,
    )


@pytest.fixture(scope="module")
def sample() -> Path:
    return Path(str(resources.files("speakeasyd") / "data" / "samples" / "voice_memo.flac"))


def test_the_demo_accepts_a_file(sample: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.flac"
    mine.write_bytes(sample.read_bytes())
    wrong = tmp_path / "speakeasyd.toml"
    wrong.write_text("nonsense")
    done = run_command(
        "demo", "mine.flac", cwd=tmp_path, TMPDIR=str(tmp_path), SPEAKEASYD_CONFIG=str(wrong)
    )
    assert done.returncode == 0, done.stderr
    assert "call the dentist" in done.stdout.lower()
    assert "mine.txt" in done.stdout
    [state] = re.findall(r"sql \"SELECT path, text .*\" --state \"(.*)\"", done.stdout)
    asked = run_command(
        "sql", "SELECT path FROM transcript_text", "--state", state, "--csv", cwd=tmp_path
    )
    assert asked.stdout == "path\nmine.flac\n"
    assert (mine.exists(), sample.exists()) == (True, True)


def test_the_demo_names_a_missing_file(tmp_path: Path) -> None:
    done = run_command("demo", "nowhere.mp3", cwd=tmp_path, TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert "there is no file nowhere.mp3" in done.stderr


def test_the_demo_prints_why_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(console=Console(width=200)) as progress:
        paused = Event(
            kind=EventKind.QUEUE_PAUSED,
            at="2026",
            data={"cause": "outbox o", "reason": "the disk is full"},
        )
        _ProgressDisplay(progress, EventLogger())(paused)
    assert "The demo waits: the disk is full" in capsys.readouterr().out


def test_once_counts_and_logs_json_to_a_pipe(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "letter.mp3").write_text("Dear Sir or Madam")
    (tmp_path / "inbox" / "memo.flac").write_bytes(sample.read_bytes())
    config = tmp_path / "speakeasyd.toml"
    config.write_text(
        "state = 'state'\n[[inboxes]]\npath = 'inbox'\noutbox = 'outbox'\n[watch]\nsettle_s = 0.2\n"
        "[options]\nmodel = 'bundled'\nformats = ['txt']\n"
    )
    done = run_command("once", "--config", str(config), "--formats", "vtt,txt", cwd=tmp_path)
    assert done.returncode == 1
    counts, *named = done.stdout.strip().splitlines()
    assert sorted(counts.split(", ")) == ["1 completed", "1 failed"]
    assert len(named) == 1, "the tally names what has failed, and why"
    assert "letter.mp3: no audio or video" in named[0]
    assert '"event": "job.failed"' in done.stderr
    assert "dentist" not in done.stderr, "no transcript text in the log"
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == ["memo.txt", "memo.vtt"]


def test_the_default_inbox_is_created(tmp_path: Path, scratch_home: Path) -> None:
    done = run_command("once", cwd=tmp_path, SPEAKEASYD_OPTIONS__MODEL="bundled")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nothing to do\n"
    assert [path for path in scratch_home.rglob("inbox") if path.is_dir()]
