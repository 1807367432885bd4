"""A daemon that serves, as a process of its own, and a client of its API."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import PATIENCE_S, REPOSITORY
from tests.ledgers import query_ledger

MEMO = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"


class Served:
    """The daemon of the folders below `root`. It may be stopped and started again, at the same address."""

    def __init__(self, root: Path, told: dict[str, str], *, files: int | None = None) -> None:
        """`told`: settings as in the environment, without their prefix. `files`: how many it may have open."""
        self._files = files
        self.root, self.inbox, self.state = root, root / "inbox", root / "state"
        self.inbox.mkdir()
        usual = {
            "SERVER__ENABLED": "true",
            "SERVER__PORT": "0",
            "OPTIONS__MODEL": "bundled",
            "WATCH__SETTLE_S": "0.2",
        }
        self._told = usual | told
        self._log = root / "log"

    def start(self) -> None:
        before = len(self.log)
        places = {"--inbox": self.inbox, "--outbox": self.root / "outbox", "--state": self.state}
        limit = ["prlimit", f"--nofile={self._files}:{self._files}"] if self._files else []
        command = [
            *limit,
            sys.executable,
            "-m",
            "speakeasyd",
            "run",
            *(str(part) for one in places.items() for part in one),
        ]
        settings = {"HOME": str(self.root)} | {
            f"SPEAKEASYD_{name}": value for name, value in self._told.items()
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | settings, stderr=log)
        listens = until(
            lambda: re.search(r"the page: http://\S+:(\d+)/", self.log[before:]), "the server"
        )
        self.port = int(listens[1])
        self._told["SERVER__PORT"] = listens[1]
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
        """Temporary files of uploads. Not by `rglob`, which fails where a folder goes while it looks."""
        walk = os.walk(self.root)
        return [
            Path(top, name)
            for top, folders, files in walk
            for name in folders + files
            if ".speakeasyd-" in name
        ]

    def rows(self, sql: str) -> list[Any]:
        return query_ledger(self.state, sql)

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of `GET /api/v1` + path."""
        answered = self.client.get(f"/api/v1{path}", params=query)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.client.post(f"/api/v1{path}", **more)

    def patch(self, path: str, **wish: Any) -> Any:
        """The JSON of `PATCH /api/v1` + path."""
        answered = self.client.patch(f"/api/v1{path}", json=wish)
        assert answered.status_code == 200, answered.text
        return answered.json()

    def upload(
        self, *files: tuple[str, bytes], inbox: str | None = None, **fields: str
    ) -> httpx.Response:
        """`files`: names and contents."""
        query = {"inbox": inbox} if inbox else {}
        return self.post(
            "/batches", params=query, data=fields, files=[("files", file) for file in files]
        )

    def ended(self, job: int) -> Any:
        """Its details, once it has ended."""
        return until(
            lambda: (row := self.get(f"/jobs/{job}"))["finished_at"] and row,
            f"the end of job {job}",
        )


@contextmanager
def serving(root: Path, *, files: int | None = None, **told: str) -> Iterator[Served]:
    """It logs no defect, and leaves no draft."""
    served = Served(root, told, files=files)
    served.start()
    try:
        yield served
    finally:
        served.stop()
    _, defect, rest = served.log.partition("Traceback")
    assert not defect, rest[:4000]
    assert not served.drafts


def until(condition: Callable[[], Any], what: str) -> Any:
    """What it returns, once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return result
