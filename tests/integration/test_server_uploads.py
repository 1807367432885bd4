"""Files that come over HTTP, well meant and ill."""

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

from tests.served import Served, serving, until

pytestmark = pytest.mark.real

numbers = count()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon that is paused: what lands and what is noted is all that counts here."""
    settings = {
        "SERVER__UPLOAD_MB": "1",
        "WATCH__SETTLE_S": "60",  # so that a job is of an upload, not of the scan
        "PRESETS__LETTERS__LANGUAGE": "en",
        "PRESETS__CALLS__CHANNELS": "split",
    }
    with serving(tmp_path_factory.mktemp("uploads"), **settings) as served:
        served.post("/pause")
        yield served


@pytest.fixture(autouse=True)
def nothing_else(served: Served) -> Iterator[None]:
    """Every file that a test leaves is below the inbox and has a job, and no draft stays."""
    yield
    until(lambda: not served.drafts, "drafts to go")
    assert {path.name for path in served.root.iterdir()} <= {
        ".cache",
        "inbox",
        "outbox",
        "state",
        "log",
    }
    there = {
        path.relative_to(served.inbox).as_posix()
        for path in served.inbox.rglob("*")
        if path.is_file()
    }
    assert there == {row["path"] for row in served.rows("SELECT path FROM job_status")}


def content() -> bytes:
    """Bytes that were never uploaded before."""
    return b"RIFF %d" % next(numbers)


def raw_form(*headers: str, body: bytes = b"RIFF") -> bytes:
    """A part as no library would write it."""
    lines = "".join(f"{header}\r\n" for header in headers).encode("utf-8", "surrogateescape")
    return b"--edge\r\n" + lines + b"\r\n" + body + b"\r\n"


RAW = {"content-type": "multipart/form-data; boundary=edge"}


def test_many_at_once_each_with_its_job(served: Served) -> None:
    answered = served.upload(*((f"call {n}.wav", content()) for n in range(5)), batch="monday")
    assert answered.status_code == 201
    told = answered.json()
    assert (told["batch"], told["inbox"]) == ("monday", "inbox")
    for n, file in enumerate(told["files"]):
        assert file["path"] == f"monday/call {n}.wav"
        job = served.get(f"/jobs/{file['job_id']}")
        assert (job["path"], job["batch"], job["bytes"]) == (file["path"], "monday", file["bytes"])
        assert (served.inbox / file["path"]).stat().st_size == file["bytes"]
    assert served.get("/batches", q="Monda")["batches"][0]["total"] == 5


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
def test_names_stay_in_the_inbox(served: Served, name: str, path: str | None) -> None:
    answered = served.upload((name, content()))
    if path is None:
        assert answered.status_code == 422
        assert "is refused" in answered.json()["error"]["message"]
    else:
        assert [file["path"] for file in answered.json()["files"]] == [path]
        assert (served.inbox / path).is_file()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("nul\0l.wav", "nul_l.wav"),
        ("caf\udce9.wav", "caf\ufffd.wav"),
        ('quo\\"te.wav', "quo_te.wav"),
    ],
)
def test_bytes_that_are_no_name(served: Served, name: str, path: str) -> None:
    form = (
        raw_form(f'Content-Disposition: form-data; name="files"; filename="{name}"', body=content())
        + b"--edge--"
    )
    answered = served.post("/batches", content=form, headers=RAW)
    assert answered.status_code in {201, 400}, answered.text
    if answered.status_code == 201:
        assert answered.json()["files"][0]["path"] == path


def test_two_of_the_same_name_are_two_files(served: Served) -> None:
    first, second = served.upload(("twin.wav", content()), ("twin.wav", content())).json()["files"]
    assert (first["path"], second["path"]) == ("twin.wav", "twin (2).wav")
    assert first["job_id"] != second["job_id"]


def test_one_bad_name_and_none_of_them_lands(served: Served) -> None:
    assert served.upload(("good.wav", content()), ("bad.pdf", content())).status_code == 422
    assert not (served.inbox / "good.wav").exists()


@pytest.mark.parametrize("batch", ["../..", "/", "a/b", "....", "CON", " "])
def test_a_batch_is_one_folder(served: Served, batch: str) -> None:
    path = Path(
        served.upload(("in a batch.wav", content()), batch=batch).json()["files"][0]["path"]
    )
    assert len(path.parts) == (2 if batch.strip(" .") else 1)
    assert ".." not in path.parts


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_a_link_in_the_inbox_leads_nowhere(served: Served, tmp_path: Path) -> None:
    (served.inbox / "elsewhere").symlink_to(tmp_path)
    try:
        assert served.upload(("elsewhere/new/a.wav", content())).status_code == 422
        assert served.upload(("a.wav", content()), batch="elsewhere").status_code == 422
    finally:
        (served.inbox / "elsewhere").unlink()
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(served: Served) -> None:
    served.upload(("plain.wav", content()))
    answered = served.upload(("plain.wav/below.wav", content()))
    assert answered.status_code == 422
    assert "not a folder" in answered.text


def test_options_and_presets(served: Served) -> None:
    answered = served.upload(
        ("told.wav", content()), preset="letters", options='{"word_timestamps": true}'
    )
    job = served.get(f"/jobs/{answered.json()['files'][0]['job_id']}")
    assert job["preset"] == "letters"
    (row,) = served.rows("SELECT max(id), options ->> 'word_timestamps' AS words FROM jobs")
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
def test_wrong_options_and_nothing_lands(served: Served, fields: dict[str, str]) -> None:
    before = served.rows("SELECT count(*) AS n FROM jobs")
    assert served.upload(("never.wav", content()), **fields).status_code == 422
    assert served.rows("SELECT count(*) AS n FROM jobs") == before


def test_no_file_no_inbox_no_form(served: Served) -> None:
    assert served.upload(("files", b""), inbox="unknown").status_code == 422
    assert served.post("/batches", files={"batch": (None, "b")}).status_code == 422
    nothing_chosen = (
        raw_form('Content-Disposition: form-data; name="files"; filename=""', body=b"")
        + b"--edge--"
    )
    answered = served.post("/batches", content=nothing_chosen, headers=RAW)
    assert (answered.status_code, "has no file" in answered.text) == (422, True)
    assert served.post("/batches", json={"files": []}).status_code == 415
    no_boundary = {"content-type": "multipart/form-data"}
    assert served.post("/batches", content=b"--\r\n", headers=no_boundary).status_code == 415
    endless = {"content-type": f"multipart/form-data; boundary={'x' * 5000}"}
    assert served.post("/batches", content=b"--\r\n", headers=endless).status_code == 400


WHOLE = raw_form('Content-Disposition: form-data; name="files"; filename="whole.wav"')


@pytest.mark.parametrize(
    "body",
    [
        b"no form at all",
        WHOLE[:30],
        WHOLE,
        WHOLE + b"--edge",
        WHOLE + raw_form("X" * 10_000 + ": y"),
        WHOLE + raw_form(*(f"X-{n}: y" for n in range(100))),
        WHOLE + b"--edge\r\n\x00\xff: \r\n\r\n--edge--",
    ],
)
def test_a_broken_form(served: Served, body: bytes) -> None:
    assert served.post("/batches", content=body, headers=RAW).status_code == 400


def test_fields_fill_no_memory(served: Served) -> None:
    many = (
        raw_form(f'Content-Disposition: form-data; name="{"n" * 2000}"', body=b"") * 100
        + b"--edge--"
    )
    assert served.post("/batches", content=many, headers=RAW).status_code == 413
    assert served.upload(("a.wav", content()), batch="b" * 100_000).status_code == 413


def test_too_large(served: Served) -> None:
    answered = served.upload(("large.wav", bytes(1_100_000)))
    assert answered.status_code == 413
    assert answered.json()["error"]["hint"]


def test_a_client_that_leaves_in_the_middle(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        head = "POST /api/v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
        client.sendall(
            f"{head}Content-Type: {RAW['content-type']}\r\n\r\n".encode() + WHOLE + bytes(100_000)
        )
        until(lambda: served.drafts, "the draft")
    until(lambda: not served.drafts, "the draft to go")


def test_what_a_crash_left_goes_at_the_next_start(served: Served) -> None:
    left = served.inbox / ".speakeasyd-upload-left"
    left.mkdir()
    (left / "half.wav").write_bytes(b"RIFF")
    served.stop()
    served.start()
    until(lambda: not left.exists(), "the sweep")


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="modes"
)
def test_an_inbox_that_cannot_be_written(served: Served) -> None:
    served.inbox.chmod(0o500)
    try:
        assert served.upload(("a.wav", content())).status_code == 503
    finally:
        served.inbox.chmod(0o700)


@pytest.mark.parametrize("size", [191, 192, 250, 254, 255])
def test_a_name_as_long_as_a_filesystem_takes(served: Served, size: int) -> None:
    name = "é" * ((size - 4) // 2) + "x" * ((size - 4) % 2) + ".wav"
    assert len(name.encode()) == size
    paths = [served.upload((name, content())).json()["files"][0]["path"] for _ in range(2)]
    assert paths[0] == name
    assert re.search(r" \(\d+\)\.wav$", paths[1])
    assert len(paths[1].encode()) <= 255
    assert all((served.inbox / path).is_file() for path in paths)


def test_a_name_that_is_too_long_is_refused_for_that(served: Served) -> None:
    answered = served.upload(("x" * 252 + ".wav", content()))
    assert answered.status_code == 422
    assert "255 bytes" in answered.text


def test_an_upload_sent_again_is_the_same(served: Served) -> None:
    files = [("again.wav", content()), ("again.wav", content()), ("b/again.wav", content())]
    first = served.upload(*files, batch="twice").json()
    assert served.upload(*files, batch="twice").json() == first
    assert len({file["job_id"] for file in first["files"]}) == 3
    other = served.upload(files[0], batch="twice", options='{"language": "fr"}').json()["files"][0]
    assert other["path"] == "twice/again (3).wav"


def test_many_equal_names_are_no_burden(served: Served) -> None:
    many = 600
    answered = served.upload(*(("equal.wav", content()) for _ in range(many)), batch="equal")
    paths = [file["path"] for file in answered.json()["files"]]
    assert paths[:2] == ["equal/equal.wav", "equal/equal (2).wav"]
    assert len(set(paths)) == many
    (row,) = served.rows("SELECT count(*) AS n FROM events WHERE kind = 'job.added'")
    assert row["n"] >= many


def test_too_many_parts(served: Served) -> None:
    part = raw_form('Content-Disposition: form-data; name=""', body=b"")
    answered = served.post("/batches", content=part * 7000 + b"--edge--", headers=RAW)
    assert answered.status_code == 413


@pytest.mark.skipif(sys.platform != "linux", reason="it takes Linux's exchange of two names")
def test_a_folder_that_is_swapped_for_a_link_while_files_come(
    served: Served, tmp_path: Path
) -> None:
    folder, link, stopped = served.inbox / "swapped", served.inbox / "link.tmp", threading.Event()
    folder.mkdir()
    link.symlink_to(tmp_path)
    libc = ctypes.CDLL(None)

    def exchange() -> None:
        here = -100  # AT_FDCWD
        assert libc.renameat2(here, os.fsencode(folder), here, os.fsencode(link), 2) == 0

    def swap() -> None:
        while not stopped.is_set():
            exchange()
            exchange()

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        answers = [served.upload((f"swapped/{n}.wav", content())).status_code for n in range(60)]
    finally:
        stopped.set()
        swapping.join()
        link.unlink()
    assert set(answers) <= {201, 422, 503}
    assert not list(tmp_path.iterdir())
    taken = {
        row["path"] for row in served.rows("SELECT path FROM job_status WHERE batch = 'swapped'")
    }
    assert len(taken) == answers.count(201)
