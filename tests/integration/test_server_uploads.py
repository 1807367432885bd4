"""Uploads over HTTP, valid and hostile."""

import ctypes
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.conftest import poll_until
from tests.serving_daemon import ServingDaemon, run_daemon

pytestmark = pytest.mark.real

file_numbers = count()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    """A paused daemon: only the received files and the jobs matter here."""
    settings = {
        "SERVER__UPLOAD_MB": "1",
        "WATCH__SETTLE_S": "60",  # so that uploads add the jobs, not scans
        "PRESETS__LETTERS__LANGUAGE": "en",
        "PRESETS__CALLS__CHANNELS": "split",
    }
    with run_daemon(tmp_path_factory.mktemp("uploads"), **settings) as daemon:
        daemon.post("/pause")
        yield daemon


@pytest.fixture(autouse=True)
def check_files(daemon: ServingDaemon) -> Iterator[None]:
    """After each test, all files are in the inbox and have jobs, and there are no drafts."""
    yield
    poll_until(lambda: not daemon.drafts, "the removal of drafts")
    assert {path.name for path in daemon.root.iterdir()} <= {
        ".cache",
        "inbox",
        "outbox",
        "state",
        "log",
    }
    there = {
        path.relative_to(daemon.inbox).as_posix()
        for path in daemon.inbox.rglob("*")
        if path.is_file()
    }
    assert there == {row["path"] for row in daemon.query_ledger("SELECT path FROM job_status")}


def create_content() -> bytes:
    """Return bytes that were not uploaded before."""
    return b"RIFF %d" % next(file_numbers)


def build_raw_form(*headers: str, body: bytes = b"RIFF") -> bytes:
    """Return a form with a part that no client library would write."""
    lines = "".join(f"{header}\r\n" for header in headers).encode("utf-8", "surrogateescape")
    return b"--edge\r\n" + lines + b"\r\n" + body + b"\r\n"


RAW = {"content-type": "multipart/form-data; boundary=edge"}


def test_concurrent_uploads_get_one_job_each(daemon: ServingDaemon) -> None:
    answered = daemon.upload(
        *((f"call {n}.wav", create_content()) for n in range(5)), batch="monday"
    )
    assert answered.status_code == 201
    answer = answered.json()
    assert (answer["batch"], answer["inbox"]) == ("monday", "inbox")
    for n, file in enumerate(answer["files"]):
        assert file["path"] == f"monday/call {n}.wav"
        job = daemon.get(f"/jobs/{file['job_id']}")
        assert (job["path"], job["batch"], job["bytes"]) == (file["path"], "monday", file["bytes"])
        assert (daemon.inbox / file["path"]).stat().st_size == file["bytes"]
    assert daemon.get("/batches", q="Monda")["batches"][0]["total"] == 5


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("folders/in/it/a.wav", "folders/in/it/a.wav"),
        ("../../../up.wav", "up.wav"),
        ("/etc/absolute.wav", "etc/absolute.wav"),
        ("C:\\Users\\me\\drive.wav", "drive.wav"),
        ("a/./b//../c.wav", "a/b/c.wav"),
        ("con/aux.wav", "con_/aux_.wav"),
        ("what? <is>: this|*.wav", "what_ _is__ this__.wav"),
        (" . /dots.../spaces .wav", "dots/spaces .wav"),
        ("жёлтый 録音.wav", "жёлтый 録音.wav"),
        ("x" * 500 + ".wav", None),
        ("d/" * 600 + "deep.wav", None),
        ("..", None),
        (".hidden.wav", None),
        (".speakeasyd-upload-x/a.wav", None),
        ("notes.pdf", None),
        ("a.wav.toml", None),
    ],
)
def test_names_stay_in_the_inbox(daemon: ServingDaemon, name: str, path: str | None) -> None:
    answered = daemon.upload((name, create_content()))
    if path is None:
        assert answered.status_code == 422
        assert "is refused" in answered.json()["error"]["message"]
    else:
        assert [file["path"] for file in answered.json()["files"]] == [path]
        assert (daemon.inbox / path).is_file()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("nul\0l.wav", "nul_l.wav"),
        ("caf\udce9.wav", "caf\ufffd.wav"),
        ('quo\\"te.wav', "quo_te.wav"),
    ],
)
def test_names_with_invalid_bytes_are_accepted(daemon: ServingDaemon, name: str, path: str) -> None:
    form = (
        build_raw_form(
            f'Content-Disposition: form-data; name="files"; filename="{name}"',
            body=create_content(),
        )
        + b"--edge--"
    )
    answered = daemon.post("/batches", content=form, headers=RAW)
    assert answered.status_code in {201, 400}, answered.text
    if answered.status_code == 201:
        assert answered.json()["files"][0]["path"] == path


def test_equal_names_become_two_files(daemon: ServingDaemon) -> None:
    first, second = daemon.upload(
        ("twin.wav", create_content()), ("twin.wav", create_content())
    ).json()["files"]
    assert (first["path"], second["path"]) == ("twin.wav", "twin (2).wav")
    assert first["job_id"] != second["job_id"]


def test_one_bad_name_refuses_all_files(daemon: ServingDaemon) -> None:
    assert (
        daemon.upload(("good.wav", create_content()), ("bad.pdf", create_content())).status_code
        == 422
    )
    assert not (daemon.inbox / "good.wav").exists()


@pytest.mark.parametrize("batch", ["../..", "/", "a/b", "....", "CON", " "])
def test_a_batch_becomes_one_folder(daemon: ServingDaemon, batch: str) -> None:
    path = Path(
        daemon.upload(("in a batch.wav", create_content()), batch=batch).json()["files"][0]["path"]
    )
    assert len(path.parts) == (2 if batch.strip(" .") else 1)
    assert ".." not in path.parts


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_links_in_the_inbox_are_not_followed(daemon: ServingDaemon, tmp_path: Path) -> None:
    (daemon.inbox / "elsewhere").symlink_to(tmp_path)
    try:
        assert daemon.upload(("elsewhere/new/a.wav", create_content())).status_code == 422
        assert daemon.upload(("a.wav", create_content()), batch="elsewhere").status_code == 422
    finally:
        (daemon.inbox / "elsewhere").unlink()
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_used_as_a_folder(daemon: ServingDaemon) -> None:
    daemon.upload(("plain.wav", create_content()))
    answered = daemon.upload(("plain.wav/below.wav", create_content()))
    assert answered.status_code == 422
    assert "not a folder" in answered.text


def test_options_and_presets_are_applied(daemon: ServingDaemon) -> None:
    answered = daemon.upload(
        ("told.wav", create_content()), preset="letters", options='{"word_timestamps": true}'
    )
    job = daemon.get(f"/jobs/{answered.json()['files'][0]['job_id']}")
    assert job["preset"] == "letters"
    (row,) = daemon.query_ledger("SELECT max(id), options ->> 'word_timestamps' AS words FROM jobs")
    assert row["words"]


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "unknown"},
        {"options": "{"},
        {"options": "[1]"},
        {"options": '{"langage": "en"}'},
        {"options": '{"priority": 99999999999999999999999999}'},
        {"options": '{"model": "/etc"}'},
        {"options": '{"model": []}'},
        {"options": '{"model": null}'},
        {"options": '{"name": "../{stem}"}'},
        {"options": '{"language": "\\ud800"}'},
    ],
)
def test_invalid_options_refuse_all_files(daemon: ServingDaemon, fields: dict[str, str]) -> None:
    before = daemon.query_ledger("SELECT count(*) AS n FROM jobs")
    assert daemon.upload(("never.wav", create_content()), **fields).status_code == 422
    assert daemon.query_ledger("SELECT count(*) AS n FROM jobs") == before


def test_invalid_requests_are_refused(daemon: ServingDaemon) -> None:
    assert daemon.upload(("files", b""), inbox="unknown").status_code == 422
    assert daemon.post("/batches", files={"batch": (None, "b")}).status_code == 422
    nothing_chosen = (
        build_raw_form('Content-Disposition: form-data; name="files"; filename=""', body=b"")
        + b"--edge--"
    )
    answered = daemon.post("/batches", content=nothing_chosen, headers=RAW)
    assert (answered.status_code, "has no file" in answered.text) == (422, True)
    assert daemon.post("/batches", json={"files": []}).status_code == 415
    no_boundary = {"content-type": "multipart/form-data"}
    assert daemon.post("/batches", content=b"--\r\n", headers=no_boundary).status_code == 415
    endless = {"content-type": f"multipart/form-data; boundary={'x' * 5000}"}
    assert daemon.post("/batches", content=b"--\r\n", headers=endless).status_code == 400


WHOLE = build_raw_form('Content-Disposition: form-data; name="files"; filename="whole.wav"')


@pytest.mark.parametrize(
    "body",
    [
        b"no form at all",
        WHOLE[:30],
        WHOLE,
        WHOLE + b"--edge",
        WHOLE + build_raw_form("X" * 10_000 + ": y"),
        WHOLE + build_raw_form(*(f"X-{n}: y" for n in range(100))),
        WHOLE + b"--edge\r\n\x00\xff: \r\n\r\n--edge--",
    ],
)
def test_a_broken_form_is_refused(daemon: ServingDaemon, body: bytes) -> None:
    assert daemon.post("/batches", content=body, headers=RAW).status_code == 400


def test_long_fields_are_refused(daemon: ServingDaemon) -> None:
    many = (
        build_raw_form(f'Content-Disposition: form-data; name="{"n" * 2000}"', body=b"") * 100
        + b"--edge--"
    )
    assert daemon.post("/batches", content=many, headers=RAW).status_code == 413
    assert daemon.upload(("a.wav", create_content()), batch="b" * 100_000).status_code == 413


def test_a_large_upload_is_refused(daemon: ServingDaemon) -> None:
    answered = daemon.upload(("large.wav", bytes(1_100_000)))
    assert answered.status_code == 413
    assert answered.json()["error"]["hint"]


def test_an_interrupted_upload_leaves_no_files(daemon: ServingDaemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port)) as client:
        head = "POST /api/v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
        client.sendall(
            f"{head}Content-Type: {RAW['content-type']}\r\n\r\n".encode() + WHOLE + bytes(100_000)
        )
        poll_until(lambda: daemon.drafts, "the draft")
    poll_until(lambda: not daemon.drafts, "the removal of the draft")


def test_drafts_of_a_killed_daemon_are_removed_at_the_next_start(daemon: ServingDaemon) -> None:
    stale = daemon.inbox / ".speakeasyd-upload-left"
    stale.mkdir()
    (stale / "half.wav").write_bytes(b"RIFF")
    daemon.stop()
    daemon.start()
    poll_until(lambda: not stale.exists(), "the removal of stale drafts")


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="modes"
)
def test_an_inbox_without_write_permission_is_reported(daemon: ServingDaemon) -> None:
    daemon.inbox.chmod(0o500)
    try:
        assert daemon.upload(("a.wav", create_content())).status_code == 503
    finally:
        daemon.inbox.chmod(0o700)


@pytest.mark.parametrize("size", [191, 192, 250, 254, 255])
def test_the_longest_possible_name_is_accepted(daemon: ServingDaemon, size: int) -> None:
    name = "é" * ((size - 4) // 2) + "x" * ((size - 4) % 2) + ".wav"
    assert len(name.encode()) == size
    paths = [daemon.upload((name, create_content())).json()["files"][0]["path"] for _ in range(2)]
    assert paths[0] == name
    assert re.search(r" \(\d+\)\.wav$", paths[1])
    assert len(paths[1].encode()) <= 255
    assert all((daemon.inbox / path).is_file() for path in paths)


def test_a_longer_name_is_refused(daemon: ServingDaemon) -> None:
    answered = daemon.upload(("x" * 252 + ".wav", create_content()))
    assert answered.status_code == 422
    assert "255 bytes" in answered.text


def test_a_repeated_upload_returns_the_same_jobs(daemon: ServingDaemon) -> None:
    files = [
        ("again.wav", create_content()),
        ("again.wav", create_content()),
        ("b/again.wav", create_content()),
    ]
    first = daemon.upload(*files, batch="twice").json()
    assert daemon.upload(*files, batch="twice").json() == first
    assert len({file["job_id"] for file in first["files"]}) == 3
    other = daemon.upload(files[0], batch="twice", options='{"language": "fr"}').json()["files"][0]
    assert other["path"] == "twice/again (3).wav"


def test_many_equal_names_are_accepted(daemon: ServingDaemon) -> None:
    many = 600
    answered = daemon.upload(*(("equal.wav", create_content()) for _ in range(many)), batch="equal")
    paths = [file["path"] for file in answered.json()["files"]]
    assert paths[:2] == ["equal/equal.wav", "equal/equal (2).wav"]
    assert len(set(paths)) == many
    (row,) = daemon.query_ledger("SELECT count(*) AS n FROM events WHERE kind = 'job.added'")
    assert row["n"] >= many


def test_too_many_parts_are_refused(daemon: ServingDaemon) -> None:
    part = build_raw_form('Content-Disposition: form-data; name=""', body=b"")
    answered = daemon.post("/batches", content=part * 7000 + b"--edge--", headers=RAW)
    assert answered.status_code == 413


@pytest.mark.skipif(sys.platform != "linux", reason="it takes Linux's exchange of two names")
def test_a_folder_replaced_by_a_link_during_uploads_is_not_followed(
    daemon: ServingDaemon, tmp_path: Path
) -> None:
    folder, link, stopped = daemon.inbox / "swapped", daemon.inbox / "link.tmp", threading.Event()
    folder.mkdir()
    link.symlink_to(tmp_path)
    libc = ctypes.CDLL(None)

    def exchange() -> None:
        current_folder = -100  # AT_FDCWD
        assert (
            libc.renameat2(
                current_folder, os.fsencode(folder), current_folder, os.fsencode(link), 2
            )
            == 0
        )

    def swap() -> None:
        while not stopped.is_set():
            exchange()
            exchange()

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        answers = [
            daemon.upload((f"swapped/{n}.wav", create_content())).status_code for n in range(30)
        ]
    finally:
        stopped.set()
        swapping.join()
        link.unlink()
    assert set(answers) <= {201, 422, 503}
    assert not list(tmp_path.iterdir())
    taken = {
        row["path"]
        for row in daemon.query_ledger("SELECT path FROM job_status WHERE batch = 'swapped'")
    }
    assert len(taken) == answers.count(201)
