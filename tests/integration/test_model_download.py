"""A model is downloaded by the real client of the hub, from a hub on this machine, and the progress is reported."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from speakeasyd.engine.whisper import download
from tests.conftest import PATIENCE_S

FILES = {
    "config.json": b"{}",
    "model.bin": bytes(30_000_000),
    "tokenizer.json": b"{}",
    "README.md": bytes(1000),
}
COMMIT = "a" * 40
_MODEL = {
    "id": "org/model",
    "sha": COMMIT,
    "siblings": [{"rfilename": name, "size": len(data)} for name, data in FILES.items()],
}
_TREE = [
    {"type": "file", "path": name, "size": len(data), "oid": name} for name, data in FILES.items()
]
_FETCH = """
import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from speakeasyd.engine.whisper import download

download.REPORT_S = 0.02
folder = download.fetch_model(
    "org/model", Path(sys.argv[1]), lambda report: print(dumps(asdict(report)), flush=True)
)
print(dumps(sorted(file.name for file in folder.iterdir())))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs. It sends the second half of the model when the first was seen.

    The client writes ten megabytes at once.
    """

    half_seen = threading.Event()

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/"):
            self._answer(send_body=True)
            return
        about = json.dumps(_TREE if "/tree/" in self.path else _MODEL).encode()
        self._send_headers(about)
        self.wfile.write(about)

    def _answer(self, *, send_body: bool) -> None:
        name = self.path.rpartition("/")[2]
        data = FILES.get(name)
        if data is None:
            self.send_error(404)
            return
        self._send_headers(data, ETag=f'"{name}"', X_Repo_Commit=COMMIT)
        if send_body:
            half = len(data) // 2
            self.wfile.write(data[:half])
            self.wfile.flush()
            if name == "model.bin":
                assert self.half_seen.wait(PATIENCE_S)
            self.wfile.write(data[half:])

    def _send_headers(self, data: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_progress_of_a_download_is_reported(hub: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", _FETCH, str(tmp_path / "models")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as fetching:
        assert fetching.stdout
        lines = []
        for line in fetching.stdout:
            lines.append(json.loads(line))
            if isinstance(lines[-1], dict) and lines[-1]["done"] >= 10_000_000:
                Hub.half_seen.set()
    *reports, files = lines
    assert files == ["config.json", "model.bin", "tokenizer.json"]
    wanted = sum(len(data) for name, data in FILES.items() if name != "README.md")
    assert {report["total"] for report in reports} == {wanted}
    sizes = [report["done"] for report in reports]
    assert sizes == sorted(set(sizes))
    assert 10_000_000 <= reports[-1]["done"] <= wanted
    assert reports[-1]["bytes_per_s"] > 0


def test_a_file_that_is_renamed_while_it_is_measured_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the progress would fall back when a file is complete."""
    part = tmp_path / "model.incomplete"
    part.write_bytes(b"1234")
    list_files = Path.glob

    def rename_after_listing(folder: Path, pattern: str) -> Iterator[Path]:
        found = list(list_files(folder, pattern))
        if part.exists():
            part.rename(tmp_path / "model")
        return iter(found)

    monkeypatch.setattr(Path, "glob", rename_after_listing)
    assert download._measure_files(tmp_path) == 4
