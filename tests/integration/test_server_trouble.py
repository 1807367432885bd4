"""A serving daemon whose folders change: it reports the change and never serves another job's
audio.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import poll_until
from tests.serving_daemon import ServingDaemon, run_daemon

pytestmark = pytest.mark.real


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ServingDaemon]:
    failed = tmp_path / "failed"
    with run_daemon(tmp_path, INBOXES=f"[{{ failed = '{failed}' }}]") as daemon:
        yield daemon


def test_each_job_serves_its_own_audio_after_disposal(daemon: ServingDaemon) -> None:
    """Recorders reuse names, and their files often have equal lengths."""
    contents = [b"RIFF one", b"RIFF two"]
    ids = []
    for content in contents:
        ids.append(daemon.upload(("rec.wav", content)).json()["files"][0]["job_id"])
        poll_until(lambda: not list(daemon.inbox.glob("*.wav")), "the disposal of the source")
    audio = [daemon.client.get(f"/api/v1/jobs/{job}/audio") for job in ids]
    assert [answered.content for answered in audio] == contents


def test_a_missing_inbox_is_reported(daemon: ServingDaemon) -> None:
    assert daemon.client.get("/healthz").json()["checks"]["inbox inbox"] == "ok"
    shutil.rmtree(daemon.inbox)
    poll_until(
        lambda: "missing" in daemon.client.get("/healthz").json()["checks"]["inbox inbox"],
        "the event",
    )
    assert daemon.upload(("a.wav", b"RIFF")).status_code == 503
    assert daemon.post("/recorder/start").status_code == 503
    assert daemon.post("/recorder/start", json={"device": 10**20}).status_code == 422


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_audio_is_never_read_from_another_path(daemon: ServingDaemon, tmp_path: Path) -> None:
    """The other file has equal size and times; only its path differs."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF secret")
    daemon.post("/pause")
    job = daemon.upload(("folder/own.wav", b"RIFF own...")).json()["files"][0]["job_id"]
    own = daemon.inbox / "folder" / "own.wav"
    times = own.stat()
    os.utime(secret, ns=(times.st_atime_ns, times.st_mtime_ns))
    kept, stopped = own.with_name("kept.tmp"), threading.Event()

    def swap() -> None:
        while not stopped.is_set():
            own.rename(kept)
            own.symlink_to(secret)
            own.unlink()
            kept.rename(own)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        answers = [daemon.client.get(f"/api/v1/jobs/{job}/audio") for _ in range(60)]
    finally:
        stopped.set()
        swapping.join()
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert {answer.content for answer in answers if answer.status_code == 200} <= {b"RIFF own..."}


def test_ranges_of_the_audio(daemon: ServingDaemon) -> None:
    daemon.post("/pause")
    content = bytes(range(200))
    job = daemon.upload(("ranges.wav", content)).json()["files"][0]["job_id"]

    def request_range(wanted: str) -> tuple[int, bytes]:
        answer = daemon.client.get(f"/api/v1/jobs/{job}/audio", headers={"range": wanted})
        return answer.status_code, answer.content

    assert request_range("bytes=0-0") == (206, content[:1])
    assert request_range("bytes=10-19") == (206, content[10:20])
    assert request_range("bytes=190-") == (206, content[190:])
    assert request_range("bytes=-5") == (206, content[-5:])
    assert request_range("bytes=0-999") == (206, content)
    assert request_range("bytes=200-") == (416, b"")
    assert request_range("bytes=-0") == (416, b"")
    assert request_range("bytes=5-2") == (200, content)
    assert request_range("lines=1-2") == (200, content)
    assert request_range("bytes=" + "0-1," * 99 + "3-4") == (200, content)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved there")
@pytest.mark.parametrize("lost", ["ledger.db", "ledger.db-wal"])
def test_work_survives_a_missing_ledger(daemon: ServingDaemon, tmp_path: Path, lost: str) -> None:
    before = daemon.query_ledger("SELECT count(*) AS n FROM jobs")
    ledger, elsewhere = daemon.state / lost, tmp_path / "elsewhere"
    ledger.rename(elsewhere)
    assert daemon.post("/pause").status_code == 503
    assert daemon.upload(("new.wav", b"RIFF new")).status_code == 503
    assert not list(daemon.inbox.rglob("*.wav"))
    poll_until(lambda: "paused (ledger)" in daemon.log, "the pause")
    assert daemon.upload(("new.wav", b"RIFF new")).status_code == 503
    elsewhere.rename(ledger)
    poll_until(lambda: "resumed (ledger)" in daemon.log, "the continuation of work")
    assert not {"person", "ledger"} & set(daemon.get("/status")["pauses"])
    assert daemon.query_ledger("SELECT count(*) AS n FROM jobs") == before
    assert daemon.upload(("new.wav", b"RIFF new")).status_code == 201


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_deleted_ledger_does_not_delay_the_stop(daemon: ServingDaemon) -> None:
    for file in daemon.state.glob("ledger.db*"):
        file.unlink()
    poll_until(lambda: "paused (ledger)" in daemon.log, "the pause")
    assert daemon.upload(("new.wav", b"RIFF new")).status_code == 503
    assert daemon.client.get("/healthz").status_code == 503


def can_mount(folder: Path) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ("mount", "-t", "tmpfs", "tmpfs", str(folder)), check=False, capture_output=True
    )
    return tried.returncode == 0


def test_no_files_are_written_below_an_unmounted_mount_point(daemon: ServingDaemon) -> None:
    if not can_mount(daemon.inbox):
        pytest.skip("it takes the right to mount")
    mounted = True
    try:
        first = poll_until(
            lambda: (answer := daemon.upload(("a.wav", b"RIFF a"))).is_success and answer,
            "an upload",
        )
        assert (daemon.inbox / first.json()["files"][0]["path"]).is_file()
        # This request makes the daemon look at the new file system.
        subprocess.run(("umount", "-l", str(daemon.inbox)), check=True)
        mounted = False
        assert daemon.upload(("b.wav", b"RIFF b")).status_code == 503
        form = {"files": {"file": ("c.wav", b"RIFF c")}, "data": {"model": "whisper-1"}}
        assert daemon.client.post("/v1/audio/transcriptions", **form).status_code == 503
        assert daemon.post("/recorder/start").status_code == 503
        assert not list(daemon.inbox.iterdir())
        poll_until(lambda: "inbox inbox" in daemon.get("/status")["pauses"], "the pause")
        assert can_mount(daemon.inbox)
        mounted = True
        poll_until(
            lambda: "inbox inbox" not in daemon.get("/status")["pauses"], "the end of the pause"
        )
        assert daemon.upload(("b.wav", b"RIFF b")).status_code == 201
    finally:
        if mounted:
            subprocess.run(("umount", "-l", str(daemon.inbox)), check=True)
