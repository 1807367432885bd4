"""The complete daemon on real speech."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

import speakeasyd
from tests.conftest import PATIENCE_S, poll_until
from tests.permissions import Deny, build_restricted_prefix, deny

__all__ = ["deny"]

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

SAMPLES = sorted((Path(speakeasyd.__file__).parent / "data" / "samples").glob("*.flac"))


class DaemonProcess:
    """Folders, and a daemon for them in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        self.inbox.mkdir()
        self.options: tuple[str, ...] = ("--model", "bundled", "--settle", "0.2")
        self.process: subprocess.Popen[bytes] | None = None

    def build_command(self, verb: str, *more: str) -> list[str]:
        places = [
            "--inbox",
            str(self.inbox),
            "--outbox",
            str(self.outbox),
            "--state",
            str(self.state),
        ]
        return [sys.executable, "-m", "speakeasyd", verb, *places, *self.options, *more]

    def run_once(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.build_command("once"),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def run_command(self, verb: str, *words: str) -> str:
        command = [sys.executable, "-m", "speakeasyd", verb, *words, "--state", str(self.state)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        ).stdout

    def start(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        with (self.state.parent / "log").open("ab") as log:
            self.process = subprocess.Popen([*prefix, *self.build_command("run")], stderr=log)
        return self.process

    def drop_file(self, sample: Path, name: str | None = None) -> Path:
        """Copy a file into the inbox under a temporary name, then rename it."""
        target = self.inbox / (name or sample.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        shutil.copyfile(sample, part)
        return part.rename(target)

    def query_ledger(self, sql: str) -> list[sqlite3.Row]:
        connection = sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def read_statuses(self) -> dict[str, str]:
        try:
            return {
                row["path"]: row["status"]
                for row in self.query_ledger("SELECT path, status FROM job_status")
            }
        except sqlite3.OperationalError:  # there is no ledger yet
            return {}

    def read_texts(self) -> dict[str, str]:
        return {
            row["path"]: row["text"]
            for row in self.query_ledger("SELECT path, text FROM transcript_text")
        }


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path)
    yield daemon
    if daemon.process and daemon.process.poll() is None:
        daemon.process.kill()
    if daemon.process:
        daemon.process.wait()


@pytest.fixture(scope="module")
def expected_texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the texts of the samples from a run without faults."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("undisturbed"))
    for sample in SAMPLES:
        daemon.drop_file(sample)
    assert daemon.run_once().returncode == 0
    return daemon.read_texts()


def test_audio_becomes_text(daemon: DaemonProcess, expected_texts: dict[str, str]) -> None:
    daemon.drop_file(SAMPLES[0])
    daemon.drop_file(SAMPLES[1], "interviews/monday.flac")
    done = daemon.run_once()
    assert done.returncode == 0, done.stderr
    text = (daemon.outbox / f"{SAMPLES[0].stem}.txt").read_text(encoding="utf-8")
    assert " ".join(text.split()) == " ".join(expected_texts[SAMPLES[0].name].split())
    assert (daemon.outbox / "interviews" / "monday.srt").is_file()
    assert daemon.read_statuses() == {
        SAMPLES[0].name: "completed",
        "interviews/monday.flac": "completed",
    }
    why = daemon.run_command(
        "why", str(daemon.inbox / "interviews" / "monday.flac")
    )  # `why` gets no inbox on its command line
    assert "job 2: completed" in why or "job 1: completed" in why


def test_a_second_run_repeats_no_work(daemon: DaemonProcess) -> None:
    daemon.drop_file(SAMPLES[0])
    assert daemon.run_once().returncode == 0
    assert daemon.run_once().returncode == 0
    assert [row["attempts"] for row in daemon.query_ledger("SELECT attempts FROM job_status")] == [
        1
    ]


def test_a_copy_under_another_name_needs_no_work(daemon: DaemonProcess) -> None:
    daemon.drop_file(SAMPLES[0], "a.flac")
    assert daemon.run_once().returncode == 0
    daemon.drop_file(SAMPLES[0], "b.flac")
    assert daemon.run_once().returncode == 0
    assert (daemon.outbox / "b.txt").read_bytes() == (daemon.outbox / "a.txt").read_bytes()
    spent = daemon.query_ledger(
        "SELECT sum(chunks.compute_seconds) AS s FROM chunks JOIN jobs ON jobs.id = job_id WHERE path = 'b.flac'"
    )
    assert spent[0]["s"] == 0


def test_a_file_without_audio_fails_alone(daemon: DaemonProcess) -> None:
    (daemon.inbox / "letter.mp3").write_text("Dear Sir or Madam")
    daemon.drop_file(SAMPLES[0])
    assert daemon.run_once().returncode == 1
    failed = daemon.query_ledger("SELECT path, error_code FROM failures")
    assert [tuple(row) for row in failed] == [("letter.mp3", "not_media")]
    assert daemon.read_statuses()[SAMPLES[0].name] == "completed"


def test_a_new_version_gets_its_own_job(
    daemon: DaemonProcess, expected_texts: dict[str, str]
) -> None:
    daemon.drop_file(SAMPLES[0], "memo.flac")
    assert daemon.run_once().returncode == 0
    daemon.drop_file(SAMPLES[1], "memo.flac")
    assert daemon.run_once().returncode == 0
    rows = daemon.query_ledger(
        "SELECT status, text FROM job_status JOIN transcript_text USING (job_id) ORDER BY job_id"
    )
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert rows[1]["text"] == expected_texts[SAMPLES[1].name]
    assert rows[0]["text"] == expected_texts[SAMPLES[0].name], "the ledger keeps the earlier text"
    texts = [path.name for path in daemon.outbox.glob("memo*.txt")]
    assert texts == ["memo.txt"], "the newest version has the natural name"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_work_continues_after_a_killed_worker_and_a_killed_daemon(
    daemon: DaemonProcess, expected_texts: dict[str, str]
) -> None:
    process = daemon.start()
    for sample in SAMPLES:
        daemon.drop_file(sample)
    poll_until(lambda: "processing" in daemon.read_statuses().values(), "a job in progress")
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    poll_until(
        lambda: daemon.query_ledger("SELECT 1 FROM chunks LIMIT 1"), "a chunk from the new worker"
    )
    process.kill()
    process.wait()
    assert daemon.run_once().returncode == 0
    assert daemon.read_texts() == expected_texts
    assert set(daemon.read_statuses().values()) == {"completed"}
    remaining = [path.name for path in daemon.outbox.rglob("*") if path.is_file()]
    assert sorted(remaining) == sorted(
        f"{sample.stem}.{ending}" for sample in SAMPLES for ending in ("txt", "srt")
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_unreadable_file_is_named_and_transcribed_later(
    daemon: DaemonProcess, deny: Deny
) -> None:
    prefix = build_restricted_prefix()
    file = daemon.drop_file(SAMPLES[0], "secret.flac")
    deny(file)
    (daemon.inbox / "notes.xyz").write_text("not audio")
    daemon.start(prefix)
    poll_until((daemon.state / "ledger.db").exists, "the ledger")
    poll_until(
        lambda: "secret.flac" in daemon.run_command("status"), "the file in the output of status"
    )
    assert "1 file is not taken (notes.xyz)" in daemon.run_command("status")
    why = daemon.run_command("why", str(file))
    assert "there is no permission to read it" in why
    assert "Let the daemon's user read it" in why
    file.chmod(0o644)
    poll_until(lambda: daemon.read_statuses().get("secret.flac") == "completed", "the transcript")


def test_a_terminated_daemon_stops_gracefully(daemon: DaemonProcess) -> None:
    process = daemon.start()
    daemon.drop_file(SAMPLES[0])
    poll_until(lambda: "completed" in daemon.read_statuses().values(), "the transcript")
    worker_pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=PATIENCE_S) == 0
    poll_until(
        lambda: not any(psutil.pid_exists(pid) for pid in worker_pids), "the exit of all workers"
    )


def test_a_second_daemon_names_the_holder_of_the_ledger(daemon: DaemonProcess) -> None:
    process = daemon.start()
    daemon.drop_file(SAMPLES[0])
    poll_until(lambda: "completed" in daemon.read_statuses().values(), "the first transcript")
    second = daemon.run_once()
    assert second.returncode == 2
    assert str(process.pid) in second.stderr


def test_a_cancelled_job_stays_cancelled(daemon: DaemonProcess) -> None:
    def run_command(*words: str) -> str:
        command = [sys.executable, "-m", "speakeasyd", *words, "--state", str(daemon.state)]
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=True
        ).stdout

    daemon.start()
    daemon.drop_file(SAMPLES[0], "0.flac")
    poll_until(lambda: daemon.read_statuses().get("0.flac") == "completed", "a running daemon")
    run_command("pause")  # else the job may be completed before it is cancelled
    for copy in (1, 2):
        daemon.drop_file(SAMPLES[0], f"{copy}.flac")
    poll_until(lambda: daemon.read_statuses().get("1.flac") == "pending", "a pending job")
    job_id = daemon.query_ledger("SELECT job_id FROM job_status WHERE path = '1.flac'")[0]["job_id"]
    assert json.loads(run_command("cancel", str(job_id), "--json"))["cancelled"] == [job_id]
    run_command("resume")
    poll_until(lambda: daemon.read_statuses().get("2.flac") == "completed", "the other file")
    assert daemon.read_statuses()["1.flac"] == "cancelled"


def test_a_changed_configuration_is_loaded_at_run_time(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    config = tmp_path / "speakeasyd.toml"
    config.write_text('[options]\nformats = ["txt"]\n', encoding="utf-8")
    daemon.options += ("--config", str(config))
    daemon.start()
    daemon.drop_file(SAMPLES[0])
    poll_until(lambda: "completed" in daemon.read_statuses().values(), "the first transcript")
    config.write_text('[options]\nformats = ["md"]\n', encoding="utf-8")
    command = [sys.executable, "-m", "speakeasyd", "config", "reload", "--state", str(daemon.state)]
    subprocess.run(command, timeout=PATIENCE_S, check=True)
    poll_until(
        lambda: daemon.query_ledger("SELECT 1 FROM events WHERE kind = 'daemon.reload_asked'"),
        "the request",
    )
    log = daemon.state.parent / "log"
    poll_until(lambda: "configuration reloaded" in log.read_text(encoding="utf-8"), "the reload")
    daemon.drop_file(SAMPLES[1])
    poll_until(
        (daemon.outbox / f"{SAMPLES[1].stem}.md").is_file, "the second transcript, as Markdown"
    )
