"""The whole daemon on real speech: what a person sees."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

import speakeasyd
from tests.conftest import PATIENCE_S
from tests.permissions import Deny, deny, restricted

__all__ = ["deny"]

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

SAMPLES = sorted((Path(speakeasyd.__file__).parent / "data" / "samples").glob("*.flac"))


class Place:
    """A scratch inbox, outbox and state folder, and the daemon over them as a process of its own."""

    def __init__(self, root: Path) -> None:
        self.inbox, self.outbox, self.state = root / "inbox", root / "outbox", root / "state"
        self.inbox.mkdir()
        self.options: tuple[str, ...] = ("--model", "bundled", "--settle", "0.2")
        self.daemon: subprocess.Popen[bytes] | None = None

    def command(self, verb: str, *more: str) -> list[str]:
        places = [
            "--inbox",
            str(self.inbox),
            "--outbox",
            str(self.outbox),
            "--state",
            str(self.state),
        ]
        return [sys.executable, "-m", "speakeasyd", verb, *places, *self.options, *more]

    def once(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("once"), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def asks(self, verb: str, *words: str) -> str:
        command = [sys.executable, "-m", "speakeasyd", verb, *words, "--state", str(self.state)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        ).stdout

    def start(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        with (self.state.parent / "log").open("ab") as log:
            self.daemon = subprocess.Popen([*prefix, *self.command("run")], stderr=log)
        return self.daemon

    def drop(self, sample: Path, name: str | None = None) -> Path:
        """Put a file into the inbox as a careful writer does: under a temporary name, then renamed."""
        target = self.inbox / (name or sample.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        shutil.copyfile(sample, part)
        return part.rename(target)

    def rows(self, sql: str) -> list[sqlite3.Row]:
        connection = sqlite3.connect(f"file:{self.state / 'ledger.db'}?mode=ro", uri=True)
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def statuses(self) -> dict[str, str]:
        try:
            return {
                row["path"]: row["status"]
                for row in self.rows("SELECT path, status FROM job_status")
            }
        except sqlite3.OperationalError:  # not there yet
            return {}

    def texts(self) -> dict[str, str]:
        return {
            row["path"]: row["text"] for row in self.rows("SELECT path, text FROM transcript_text")
        }


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    if place.daemon and place.daemon.poll() is None:
        place.daemon.kill()
    if place.daemon:
        place.daemon.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of the samples from a run that nothing disturbed."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    for sample in SAMPLES:
        place.drop(sample)
    assert place.once().returncode == 0
    return place.texts()


def test_audio_in_text_out(place: Place, undisturbed: dict[str, str]) -> None:
    place.drop(SAMPLES[0])
    place.drop(SAMPLES[1], "interviews/monday.flac")
    done = place.once()
    assert done.returncode == 0, done.stderr
    text = (place.outbox / f"{SAMPLES[0].stem}.txt").read_text(encoding="utf-8")
    assert " ".join(text.split()) == " ".join(undisturbed[SAMPLES[0].name].split())
    assert (place.outbox / "interviews" / "monday.srt").is_file()
    assert place.statuses() == {SAMPLES[0].name: "completed", "interviews/monday.flac": "completed"}
    why = place.asks(
        "why", str(place.inbox / "interviews" / "monday.flac")
    )  # the flag that named the inbox is forgotten
    assert "job 2: completed" in why or "job 1: completed" in why


def test_a_second_run_does_nothing_twice(place: Place) -> None:
    place.drop(SAMPLES[0])
    assert place.once().returncode == 0
    assert place.once().returncode == 0
    assert [row["attempts"] for row in place.rows("SELECT attempts FROM job_status")] == [1]


def test_the_same_bytes_under_another_name_cost_nothing(place: Place) -> None:
    place.drop(SAMPLES[0], "a.flac")
    assert place.once().returncode == 0
    place.drop(SAMPLES[0], "b.flac")
    assert place.once().returncode == 0
    assert (place.outbox / "b.txt").read_bytes() == (place.outbox / "a.txt").read_bytes()
    spent = place.rows(
        "SELECT sum(chunks.compute_seconds) AS s FROM chunks JOIN jobs ON jobs.id = job_id WHERE path = 'b.flac'"
    )
    assert spent[0]["s"] == 0


def test_what_is_no_audio_fails_and_the_neighbours_go_on(place: Place) -> None:
    (place.inbox / "letter.mp3").write_text("Dear Sir or Madam")
    place.drop(SAMPLES[0])
    assert place.once().returncode == 1
    failed = place.rows("SELECT path, error_code FROM failures")
    assert [tuple(row) for row in failed] == [("letter.mp3", "not_media")]
    assert place.statuses()[SAMPLES[0].name] == "completed"


def test_new_bytes_under_an_old_name_are_a_job_of_their_own(
    place: Place, undisturbed: dict[str, str]
) -> None:
    place.drop(SAMPLES[0], "memo.flac")
    assert place.once().returncode == 0
    place.drop(SAMPLES[1], "memo.flac")
    assert place.once().returncode == 0
    rows = place.rows(
        "SELECT status, text FROM job_status JOIN transcript_text USING (job_id) ORDER BY job_id"
    )
    assert [row["status"] for row in rows] == ["completed", "completed"]
    assert rows[1]["text"] == undisturbed[SAMPLES[1].name]
    assert rows[0]["text"] == undisturbed[SAMPLES[0].name], "the ledger keeps the earlier text"
    texts = [path.name for path in place.outbox.glob("memo*.txt")]
    assert texts == ["memo.txt"], "the newest version has the natural name"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_worker_is_replaced_and_a_killed_daemon_goes_on(
    place: Place, undisturbed: dict[str, str]
) -> None:
    daemon = place.start()
    for sample in SAMPLES:
        place.drop(sample)
    until(lambda: "processing" in place.statuses().values(), "a job in work")
    for child in psutil.Process(daemon.pid).children(recursive=True):
        child.kill()
    until(lambda: place.rows("SELECT 1 FROM chunks LIMIT 1"), "a chunk from the new worker")
    daemon.kill()
    daemon.wait()
    assert place.once().returncode == 0
    assert place.texts() == undisturbed
    assert set(place.statuses().values()) == {"completed"}
    left = [path.name for path in place.outbox.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(
        f"{sample.stem}.{ending}" for sample in SAMPLES for ending in ("txt", "srt")
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_file_that_may_not_be_read_is_named_and_is_taken_once_it_may(
    place: Place, deny: Deny
) -> None:
    prefix = restricted()
    file = place.drop(SAMPLES[0], "secret.flac")
    deny(file)
    (place.inbox / "notes.xyz").write_text("not audio")
    place.start(prefix)
    until((place.state / "ledger.db").exists, "the ledger")
    until(lambda: "secret.flac" in place.asks("status"), "status to name the file")
    assert "1 file is not taken (notes.xyz)" in place.asks("status")
    why = place.asks("why", str(file))
    assert "there is no permission to read it" in why
    assert "Let the daemon's user read it" in why
    file.chmod(0o644)
    until(lambda: place.statuses().get("secret.flac") == "completed", "the transcript")


def test_a_terminated_daemon_leaves_in_good_order(place: Place) -> None:
    daemon = place.start()
    place.drop(SAMPLES[0])
    until(lambda: "completed" in place.statuses().values(), "the transcript")
    worker_pids = [child.pid for child in psutil.Process(daemon.pid).children(recursive=True)]
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.wait(timeout=PATIENCE_S) == 0
    until(lambda: not any(psutil.pid_exists(pid) for pid in worker_pids), "no orphans")


def test_the_second_daemon_says_who_holds_the_ledger(place: Place) -> None:
    daemon = place.start()
    place.drop(SAMPLES[0])
    until(lambda: "completed" in place.statuses().values(), "the daemon to be up")
    second = place.once()
    assert second.returncode == 2
    assert str(daemon.pid) in second.stderr


def test_a_cancelled_job_stays_cancelled(place: Place) -> None:
    place.start()
    for copy in range(6):
        place.drop(SAMPLES[0], f"{copy}.flac")
    until(lambda: place.statuses().get("5.flac") == "pending", "a pending job")
    job_id = place.rows("SELECT job_id FROM job_status WHERE path = '5.flac'")[0]["job_id"]
    command = [
        sys.executable,
        "-m",
        "speakeasyd",
        "cancel",
        str(job_id),
        "--state",
        str(place.state),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert json.loads(done.stdout)["cancelled"] == [job_id]
    until(
        lambda: set(place.statuses().values()) == {"completed", "cancelled"}, "the rest to be done"
    )
    assert place.statuses()["5.flac"] == "cancelled"


def test_a_changed_configuration_is_taken_on_while_it_runs(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "speakeasyd.toml"
    config.write_text('[options]\nformats = ["txt"]\n', encoding="utf-8")
    place.options += ("--config", str(config))
    place.start()
    place.drop(SAMPLES[0])
    until(lambda: "completed" in place.statuses().values(), "the first transcript")
    config.write_text('[options]\nformats = ["md"]\n', encoding="utf-8")
    command = [sys.executable, "-m", "speakeasyd", "config", "reload", "--state", str(place.state)]
    subprocess.run(command, timeout=PATIENCE_S, check=True)
    until(lambda: place.rows("SELECT 1 FROM events WHERE kind = 'daemon.reload_asked'"), "the wish")
    log = place.state.parent / "log"
    until(lambda: "configuration reloaded" in log.read_text(encoding="utf-8"), "the reload")
    place.drop(SAMPLES[1])
    until((place.outbox / f"{SAMPLES[1].stem}.md").is_file, "the second transcript, as Markdown")
