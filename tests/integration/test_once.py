"""`speakeasyd once` ends by itself whatever is in its way, and names what is left and why. Real daemons."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from speakeasyd import __version__
from tests.integration.test_daemon import PATIENCE_S, SAMPLES, Place, until
from tests.permissions import Deny, deny, restricted

__all__ = ["deny"]

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="permissions and signals of POSIX")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run_once(place: Place, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *place.command("once")]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_an_empty_inbox(place: Place) -> None:
    done = run_once(place)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")
    assert f"speakeasyd {__version__} starts" in done.stderr
    assert str(place.inbox) in done.stderr
    assert f"speakeasyd {__version__} has stopped" in done.stderr


def test_what_failed_is_named_with_its_reason(place: Place) -> None:
    letter = place.inbox / "letter.mp3"
    letter.write_text("Dear Sir or Madam")
    done = run_once(place)
    assert done.returncode == 1
    assert done.stdout.startswith("1 failed\n")
    assert f"failed: {letter}: " in done.stdout


def test_what_is_not_taken_is_counted(place: Place) -> None:
    (place.inbox / "notes.xyz").write_text("not audio")
    (place.inbox / "folder").mkdir()
    (place.inbox / "folder" / "README").write_text("not audio")
    (place.inbox / "half.flac.part").write_text("ignored by a pattern")
    done = run_once(place)
    assert done.returncode == 0
    assert done.stdout.startswith("2 not taken\n")
    assert "notes.xyz" in done.stdout


@posix_only
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_an_outbox_that_cannot_be_written(place: Place, deny: Deny, mode: int) -> None:
    prefix = restricted()
    source = place.drop(SAMPLES[0])
    place.outbox.mkdir(exist_ok=True)
    deny(place.outbox, mode)
    done = run_once(place, prefix)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 left\n")
    assert f"left: {source}: {place.outbox} cannot be written: Permission denied" in done.stdout
    place.outbox.chmod(0o755)
    assert run_once(place, prefix).returncode == 0


@posix_only
def test_an_outbox_that_cannot_be_made(place: Place) -> None:
    source = place.drop(SAMPLES[0])
    place.outbox.parent.joinpath("file").write_text("in the way")
    place.outbox = place.outbox.parent / "file" / "outbox"
    done = run_once(place)
    assert done.returncode == 1, done.stderr
    assert str(source) in done.stdout


@posix_only
def test_an_outbox_that_is_taken_away_meanwhile(place: Place, deny: Deny) -> None:
    prefix = restricted()
    source = place.drop(SAMPLES[0])
    once = subprocess.Popen([*prefix, *place.command("once")], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: "processing" in place.statuses().values(), "a job in work")
        deny(place.outbox, 0o555)
        said, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        once.kill()
        once.wait()
    assert once.returncode == 1
    assert f"left: {source}: {place.outbox} cannot be written" in said


@posix_only
def test_files_and_folders_that_may_not_be_read(place: Place, deny: Deny) -> None:
    prefix = restricted()
    file = place.drop(SAMPLES[0], "secret.flac")
    sidecar = place.drop(SAMPLES[1], "with sidecar.flac").with_name("with sidecar.flac.toml")
    sidecar.write_text('[options]\nlanguage = "en"\n')
    inside = place.drop(SAMPLES[0], "closed/inside.flac")
    listed = place.drop(SAMPLES[0], "listed/inside.flac")
    deny(file)
    deny(sidecar)
    deny(inside.parent)
    deny(listed.parent, 0o444)
    done = run_once(place, prefix)
    assert done.returncode == 1
    assert done.stdout.startswith("4 left\n")
    for path in (file, sidecar.with_suffix(""), inside.parent, listed):
        assert f"left: {path}: " in done.stdout


@posix_only
def test_a_ledger_that_another_program_keeps_locked(place: Place) -> None:
    assert run_once(place).returncode == 0
    source = place.drop(SAMPLES[0])
    once: subprocess.Popen[str] | None = None
    other = sqlite3.connect(place.state / "ledger.db", isolation_level=None)
    try:
        once = subprocess.Popen(place.command("once"), stdout=subprocess.PIPE, text=True)
        until(lambda: _daemon_wrote(place, once), "the daemon to be up")
        other.execute("BEGIN IMMEDIATE")
        said, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        other.close()
        if once:
            once.kill()
            once.wait()
    assert once.returncode == 1
    assert str(source) in said
    assert "locked" in said


def _daemon_wrote(place: Place, once: subprocess.Popen[str]) -> bool:
    rows = place.rows("SELECT value ->> 'pid' AS pid FROM state WHERE key = 'daemon'")
    return bool(rows) and rows[0]["pid"] == once.pid


def test_jobs_of_an_inbox_that_is_not_configured_any_more(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "old.toml"
    outbox, elsewhere = tmp_path / "outbox", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "old.mp3").write_text("never finished")
    config.write_text(
        f'state = "{place.state.as_posix()}"\n'
        f'[[inboxes]]\nname = "old"\npath = "{elsewhere.as_posix()}"\noutbox = "{outbox.as_posix()}"\n'
    )
    command = [sys.executable, "-m", "speakeasyd", "once", "--config", str(config)]
    subprocess.run(command, timeout=PATIENCE_S, check=False, capture_output=True)
    connection = sqlite3.connect(place.state / "ledger.db")
    with connection:
        connection.execute("UPDATE jobs SET status = 'pending', finished_at = NULL")
    connection.close()
    done = run_once(place)
    assert done.returncode == 1
    assert "left: old.mp3: its inbox old is not in the configuration" in done.stdout


@posix_only
@pytest.mark.parametrize(
    "hinder", [lambda _place, _deny: None, lambda place, deny: deny(place.outbox, 0o555)]
)
def test_a_request_to_stop_is_heeded_at_once(
    place: Place, deny: Deny, hinder: Callable[[Place, Deny], None]
) -> None:
    prefix = restricted()
    for copy in range(12):
        place.drop(SAMPLES[0], f"{copy}.flac")
        place.drop(SAMPLES[1], f"other {copy}.flac")
    once = subprocess.Popen([*prefix, *place.command("once")], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: "processing" in place.statuses().values(), "a job in work")
        hinder(place, deny)
        once.send_signal(signal.SIGTERM)
        said, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        once.kill()
        once.wait()
    assert once.returncode == 1
    assert "nothing to do" not in said
    assert " left" in said.splitlines()[0]
    assert "processing" not in place.statuses().values()
