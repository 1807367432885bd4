"""`speakeasyd once` ends by itself in every situation and names what remains and why."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from speakeasyd import __version__
from tests.conftest import PATIENCE_S, poll_until
from tests.integration.test_daemon import SAMPLES, DaemonProcess
from tests.permissions import Deny, build_restricted_prefix, deny

__all__ = ["deny"]

posix_only = pytest.mark.skipif(
    sys.platform == "win32", reason="needs POSIX permissions and signals"
)


@pytest.fixture
def daemon(tmp_path: Path) -> DaemonProcess:
    return DaemonProcess(tmp_path)


def run_once(daemon: DaemonProcess, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *daemon.build_command("once")]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_an_empty_inbox(daemon: DaemonProcess) -> None:
    done = run_once(daemon)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")
    assert f"speakeasyd {__version__} starts" in done.stderr
    assert str(daemon.inbox) in done.stderr
    assert f"speakeasyd {__version__} has stopped" in done.stderr


def test_failed_files_are_named_with_their_reasons(daemon: DaemonProcess) -> None:
    letter = daemon.inbox / "letter.mp3"
    letter.write_text("Dear Sir or Madam")
    done = run_once(daemon)
    assert done.returncode == 1
    assert done.stdout.startswith("1 failed\n")
    assert f"failed: {letter}: " in done.stdout


def test_ignored_files_are_counted(daemon: DaemonProcess) -> None:
    (daemon.inbox / "notes.xyz").write_text("not audio")
    (daemon.inbox / "folder").mkdir()
    (daemon.inbox / "folder" / "README").write_text("not audio")
    (daemon.inbox / "half.flac.part").write_text("ignored by a pattern")
    done = run_once(daemon)
    assert done.returncode == 0
    assert done.stdout.startswith("2 not taken\n")
    assert "notes.xyz" in done.stdout


@posix_only
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_an_outbox_without_write_permission(daemon: DaemonProcess, deny: Deny, mode: int) -> None:
    prefix = build_restricted_prefix()
    source = daemon.drop_file(SAMPLES[0])
    daemon.outbox.mkdir(exist_ok=True)
    deny(daemon.outbox, mode)
    done = run_once(daemon, prefix)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 left\n")
    assert f"left: {source}: {daemon.outbox} cannot be written: Permission denied" in done.stdout
    daemon.outbox.chmod(0o755)
    assert run_once(daemon, prefix).returncode == 0


@posix_only
def test_an_outbox_that_cannot_be_created(daemon: DaemonProcess) -> None:
    source = daemon.drop_file(SAMPLES[0])
    daemon.outbox.parent.joinpath("file").write_text("in the way")
    daemon.outbox = daemon.outbox.parent / "file" / "outbox"
    done = run_once(daemon)
    assert done.returncode == 1, done.stderr
    assert str(source) in done.stdout


@posix_only
def test_an_outbox_that_becomes_unwritable(daemon: DaemonProcess, deny: Deny) -> None:
    prefix = build_restricted_prefix()
    source = daemon.drop_file(SAMPLES[0])
    once = subprocess.Popen(
        [*prefix, *daemon.build_command("once")], stdout=subprocess.PIPE, text=True
    )
    try:
        poll_until(lambda: "processing" in daemon.read_statuses().values(), "a job in progress")
        deny(daemon.outbox, 0o555)
        output, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        once.kill()
        once.wait()
    assert once.returncode == 1
    assert f"left: {source}: {daemon.outbox} cannot be written" in output


@posix_only
def test_unreadable_files_and_folders(daemon: DaemonProcess, deny: Deny) -> None:
    prefix = build_restricted_prefix()
    file = daemon.drop_file(SAMPLES[0], "secret.flac")
    sidecar = daemon.drop_file(SAMPLES[1], "with sidecar.flac").with_name("with sidecar.flac.toml")
    sidecar.write_text('[options]\nlanguage = "en"\n')
    inside = daemon.drop_file(SAMPLES[0], "closed/inside.flac")
    listed = daemon.drop_file(SAMPLES[0], "listed/inside.flac")
    deny(file)
    deny(sidecar)
    deny(inside.parent)
    deny(listed.parent, 0o444)
    done = run_once(daemon, prefix)
    assert done.returncode == 1
    assert done.stdout.startswith("4 left\n")
    for path in (file, sidecar.with_suffix(""), inside.parent, listed):
        assert f"left: {path}: " in done.stdout


@posix_only
@pytest.mark.parametrize("moment", ["SELECT 1 FROM jobs", "SELECT 1 FROM jobs WHERE attempts"])
def test_a_ledger_that_another_program_locks(daemon: DaemonProcess, moment: str) -> None:
    assert run_once(daemon).returncode == 0
    source = daemon.drop_file(SAMPLES[0])
    once: subprocess.Popen[str] | None = None
    other = sqlite3.connect(daemon.state / "ledger.db", isolation_level=None)
    try:
        once = subprocess.Popen(daemon.build_command("once"), stdout=subprocess.PIPE, text=True)
        poll_until(lambda: daemon.query_ledger(moment), "the job")
        other.execute("BEGIN IMMEDIATE")
        output, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        other.close()
        if once:
            once.kill()
            once.wait()
    assert once.returncode == 1
    assert str(source) in output
    assert "locked" in output


def test_jobs_of_a_removed_inbox(daemon: DaemonProcess, tmp_path: Path) -> None:
    config = tmp_path / "old.toml"
    outbox, elsewhere = tmp_path / "outbox", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "old.mp3").write_text("never finished")
    config.write_text(
        f'state = "{daemon.state.as_posix()}"\n'
        f'[[inboxes]]\nname = "old"\npath = "{elsewhere.as_posix()}"\noutbox = "{outbox.as_posix()}"\n'
    )
    command = [sys.executable, "-m", "speakeasyd", "once", "--config", str(config)]
    subprocess.run(command, timeout=PATIENCE_S, check=False, capture_output=True)
    connection = sqlite3.connect(daemon.state / "ledger.db")
    with connection:
        connection.execute("UPDATE jobs SET status = 'pending', finished_at = NULL")
    connection.close()
    done = run_once(daemon)
    assert done.returncode == 1
    assert "left: old.mp3: its inbox old is not in the configuration" in done.stdout


@posix_only
@pytest.mark.parametrize(
    "hinder", [lambda _place, _deny: None, lambda daemon, deny: deny(daemon.outbox, 0o555)]
)
def test_a_request_to_stop_ends_it_immediately(
    daemon: DaemonProcess, deny: Deny, hinder: Callable[[DaemonProcess, Deny], None]
) -> None:
    prefix = build_restricted_prefix()
    for copy in range(12):
        daemon.drop_file(SAMPLES[0], f"{copy}.flac")
        daemon.drop_file(SAMPLES[1], f"other {copy}.flac")
    once = subprocess.Popen(
        [*prefix, *daemon.build_command("once")], stdout=subprocess.PIPE, text=True
    )
    try:
        poll_until(lambda: "processing" in daemon.read_statuses().values(), "a job in progress")
        hinder(daemon, deny)
        once.send_signal(signal.SIGTERM)
        output, _ = once.communicate(timeout=PATIENCE_S)
    finally:
        once.kill()
        once.wait()
    assert once.returncode == 1
    assert "nothing to do" not in output
    assert " left" in output.splitlines()[0]
    assert "processing" not in daemon.read_statuses().values()
