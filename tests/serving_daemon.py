"""A daemon with its server in a process of its own, and a client of its API."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import PATIENCE_S, REPOSITORY, poll_until
from tests.ledgers import query_ledger

VOICE_MEMO = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"


class ServingDaemon:
    """A daemon whose folders are below `root`.

    It can be stopped and started again at the same address.
    """

    def __init__(
        self, root: Path, settings: dict[str, str], *, max_open_files: int | None = None
    ) -> None:
        """`settings`: variables of the environment without their prefix.

        `max_open_files`: a limit on descriptors.
        """
        self._max_open_files = max_open_files
        self.root, self.inbox, self.state = root, root / "inbox", root / "state"
        self.inbox.mkdir()
        defaults = {
            "SERVER__ENABLED": "true",
            "SERVER__PORT": "0",
            "OPTIONS__MODEL": "bundled",
            "WATCH__SETTLE_S": "0.2",
        }
        self._settings = defaults | settings
        self._log = root / "log"

    def start(self) -> None:
        before = len(self.log)
        folders = {"--inbox": self.inbox, "--outbox": self.root / "outbox", "--state": self.state}
        limit = (
            ["prlimit", f"--nofile={self._max_open_files}:{self._max_open_files}"]
            if self._max_open_files
            else []
        )
        command = [
            *limit,
            sys.executable,
            "-m",
            "speakeasyd",
            "run",
            *(str(part) for one in folders.items() for part in one),
        ]
        environment = {"HOME": str(self.root)} | {
            f"SPEAKEASYD_{name}": value for name, value in self._settings.items()
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | environment, stderr=log)
        match = poll_until(
            lambda: re.search(r"the page: http://\S+:(\d+)/", self.log[before:]), "the server"
        )
        self.port = int(match[1])
        self._settings["SERVER__PORT"] = match[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.address, timeout=PATIENCE_S)

    def stop(self) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=PATIENCE_S)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    @property
    def drafts(self) -> Sequence[Path]:
        """Temporary files of uploads. `rglob` would fail if a folder disappears meanwhile."""
        walk = os.walk(self.root)
        return [
            Path(top, name)
            for top, folders, files in walk
            for name in folders + files
            if ".speakeasyd-" in name
        ]

    def query_ledger(self, sql: str) -> list[Any]:
        return query_ledger(self.state, sql)

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of `GET /api/v1` + path."""
        response = self.client.get(f"/api/v1{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.client.post(f"/api/v1{path}", **more)

    def patch(self, path: str, **values: Any) -> Any:
        """Return the JSON of `PATCH /api/v1` + path."""
        response = self.client.patch(f"/api/v1{path}", json=values)
        assert response.status_code == 200, response.text
        return response.json()

    def upload(
        self, *files: tuple[str, bytes], inbox: str | None = None, **fields: str
    ) -> httpx.Response:
        """Upload files, given by names and contents."""
        query = {"inbox": inbox} if inbox else {}
        return self.post(
            "/batches", params=query, data=fields, files=[("files", file) for file in files]
        )

    def wait_for_job(self, job: int) -> Any:
        """Return the details of a job once it has ended."""
        return poll_until(
            lambda: (row := self.get(f"/jobs/{job}"))["finished_at"] and row,
            f"the end of job {job}",
        )


@contextmanager
def run_daemon(
    root: Path, *, max_open_files: int | None = None, **settings: str
) -> Iterator[ServingDaemon]:
    """Run a daemon. At the end it must have logged no defect and left no draft."""
    daemon = ServingDaemon(root, settings, max_open_files=max_open_files)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
    _, defect, rest = daemon.log.partition("Traceback")
    assert not defect, rest[:4000]
    assert not daemon.drafts
