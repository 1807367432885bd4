"""A served daemon whose folders change under it: it tells the truth, and gives nobody another's recording."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import Served, serving, until

pytestmark = pytest.mark.real


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    failed = tmp_path / "failed"
    with serving(tmp_path, INBOXES=f"[{{ failed = '{failed}' }}]") as served:
        yield served


def test_each_job_has_its_own_audio_wherever_that_was_put(served: Served) -> None:
    """Recorders call everything the same, and their files are often equally long."""
    contents = [b"RIFF one", b"RIFF two"]
    ids = []
    for content in contents:
        ids.append(served.upload(("rec.wav", content)).json()["files"][0]["job_id"])
        until(lambda: not list(served.inbox.glob("*.wav")), "the source to be put away")
    audio = [served.client.get(f"/api/v1/jobs/{job}/audio") for job in ids]
    assert [answered.content for answered in audio] == contents


def test_an_inbox_that_is_gone_is_no_secret(served: Served) -> None:
    assert served.client.get("/healthz").json()["checks"]["inbox inbox"] == "ok"
    shutil.rmtree(served.inbox)
    until(
        lambda: "gone" in served.client.get("/healthz").json()["checks"]["inbox inbox"], "the news"
    )
    assert served.upload(("a.wav", b"RIFF")).status_code == 503
    assert served.post("/recorder/start").status_code == 503
    assert served.post("/recorder/start", json={"device": 10**20}).status_code == 422


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_audio_is_never_that_of_a_file_elsewhere(served: Served, tmp_path: Path) -> None:
    """Equal in size and time: only the path tells it from the job's own."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF secret")
    served.post("/pause")
    job = served.upload(("folder/own.wav", b"RIFF own...")).json()["files"][0]["job_id"]
    own = served.inbox / "folder" / "own.wav"
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
        answers = [served.client.get(f"/api/v1/jobs/{job}/audio") for _ in range(60)]
    finally:
        stopped.set()
        swapping.join()
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert {answer.content for answer in answers if answer.status_code == 200} <= {b"RIFF own..."}


def test_ranges_of_the_audio(served: Served) -> None:
    served.post("/pause")
    content = bytes(range(200))
    job = served.upload(("ranges.wav", content)).json()["files"][0]["job_id"]

    def ask(wanted: str) -> tuple[int, bytes]:
        answer = served.client.get(f"/api/v1/jobs/{job}/audio", headers={"range": wanted})
        return answer.status_code, answer.content

    assert ask("bytes=0-0") == (206, content[:1])
    assert ask("bytes=10-19") == (206, content[10:20])
    assert ask("bytes=190-") == (206, content[190:])
    assert ask("bytes=-5") == (206, content[-5:])
    assert ask("bytes=0-999") == (206, content)
    assert ask("bytes=200-") == (416, b"")
    assert ask("bytes=-0") == (416, b"")
    assert ask("bytes=5-2") == (200, content)
    assert ask("lines=1-2") == (200, content)
    assert ask("bytes=" + "0-1," * 99 + "3-4") == (200, content)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved there")
@pytest.mark.parametrize("lost", ["ledger.db", "ledger.db-wal"])
def test_a_ledger_that_goes_away_takes_nothing(served: Served, tmp_path: Path, lost: str) -> None:
    before = served.rows("SELECT count(*) AS n FROM jobs")
    ledger, elsewhere = served.state / lost, tmp_path / "elsewhere"
    ledger.rename(elsewhere)
    assert served.post("/pause").status_code == 503
    assert served.upload(("new.wav", b"RIFF new")).status_code == 503
    assert not list(served.inbox.rglob("*.wav"))
    until(lambda: "paused (ledger)" in served.log, "the pause")
    assert served.upload(("new.wav", b"RIFF new")).status_code == 503
    elsewhere.rename(ledger)
    until(lambda: "resumed (ledger)" in served.log, "the work to go on")
    assert not {"person", "ledger"} & set(served.get("/status")["pauses"])
    assert served.rows("SELECT count(*) AS n FROM jobs") == before
    assert served.upload(("new.wav", b"RIFF new")).status_code == 201


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_ledger_that_is_deleted_holds_no_stop(served: Served) -> None:
    for file in served.state.glob("ledger.db*"):
        file.unlink()
    until(lambda: "paused (ledger)" in served.log, "the pause")
    assert served.upload(("new.wav", b"RIFF new")).status_code == 503
    assert served.client.get("/healthz").status_code == 503


def may_mount(folder: Path) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    tried = subprocess.run(
        ("mount", "-t", "tmpfs", "tmpfs", str(folder)), check=False, capture_output=True
    )
    return tried.returncode == 0


def test_nothing_goes_below_a_mount_point_that_is_not_mounted(served: Served) -> None:
    if not may_mount(served.inbox):
        pytest.skip("it takes the right to mount")
    mounted = True
    try:
        first = until(
            lambda: (answer := served.upload(("a.wav", b"RIFF a"))).is_success and answer,
            "an upload",
        )
        assert (served.inbox / first.json()["files"][0]["path"]).is_file()
        # The daemon has seen the new filesystem: it was asked whether the inbox is there.
        subprocess.run(("umount", "-l", str(served.inbox)), check=True)
        mounted = False
        assert served.upload(("b.wav", b"RIFF b")).status_code == 503
        form = {"files": {"file": ("c.wav", b"RIFF c")}, "data": {"model": "whisper-1"}}
        assert served.client.post("/v1/audio/transcriptions", **form).status_code == 503
        assert served.post("/recorder/start").status_code == 503
        assert not list(served.inbox.iterdir())
        until(lambda: "inbox inbox" in served.get("/status")["pauses"], "the pause")
        assert may_mount(served.inbox)
        mounted = True
        until(lambda: "inbox inbox" not in served.get("/status")["pauses"], "the end of the pause")
        assert served.upload(("b.wav", b"RIFF b")).status_code == 201
    finally:
        if mounted:
            subprocess.run(("umount", "-l", str(served.inbox)), check=True)
