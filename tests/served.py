"""A real daemon with its server, for the tests that come to it by HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY

MEMO = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(root: Path, port: int, **told: str) -> Iterator[str]:
    """Its address. The folders lie below `root`; `told`: settings as in the environment, without their prefix."""
    (root / "inbox").mkdir(exist_ok=True)
    told |= {"SERVER__PORT": str(port), "SERVER__ENABLED": "true", "OPTIONS__MODEL": "bundled"}
    settings = {"HOME": str(root)} | {f"SPEAKEASYD_{name}": value for name, value in told.items()}
    places = ["--inbox", root / "inbox", "--outbox", root / "outbox", "--state", root / "state"]
    with (root / "log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "speakeasyd", "run", *map(str, places)], env=os.environ | settings, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()


def wait_for(url: str) -> None:
    """Until it answers well."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} did not answer"
        time.sleep(0.1)
