"""Another program locks the ledger: the log, status and health checks name it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.errors import LedgerHeld
from speakeasyd.ledger import locks
from speakeasyd.ledger.locks import find_holders
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from tests.conftest import poll_until
from tests.ledgers import build_job, open_ledger
from tests.serving_daemon import ServingDaemon, run_daemon

_HOLD_PROGRAM = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""

needs_linux = pytest.mark.skipif(
    not locks.LOCKS.exists(), reason="only Linux names the holder of a lock"
)


@contextmanager
def hold_ledger(ledger: Path, *, pragma: str = "SELECT 1") -> Iterator[int]:
    """Lock the ledger in another process. Yields the id of the process."""
    command = [sys.executable, "-c", _HOLD_PROGRAM, str(ledger), pragma]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        yield child.pid
        assert child.stdin
        child.stdin.close()


def read_status_output(daemon: ServingDaemon) -> Any:
    command = [sys.executable, "-m", "speakeasyd", "status", "--json", "--state", str(daemon.state)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


@needs_linux
def test_status_health_and_log_name_the_holder(tmp_path: Path) -> None:
    with run_daemon(tmp_path, NOTIFY__HOOK='["true"]') as daemon:
        before = len(daemon.log)
        with hold_ledger(daemon.state / "ledger.db") as pid:
            poll_until(lambda: "paused (ledger)" in daemon.log[before:], "the pause in the log")
            ready = poll_until(lambda: daemon.client.get("/readyz"), "a response")
            assert ready.status_code == 503
            health = daemon.client.get("/healthz").json()
            for text in (
                ready.text,
                health["checks"]["ledger"],
                read_status_output(daemon)["pauses"]["ledger"],
            ):
                assert f"process {pid} (" in text
            poll_until(lambda: not daemon.client.get("/readyz").is_success, "the next check")
        poll_until(lambda: "resumed (ledger)" in daemon.log[before:], "the end of the pause")
        poll_until(lambda: daemon.client.get("/readyz").is_success, "the daemon to be ready")
        assert "ledger" not in read_status_output(daemon)["pauses"]
        log = daemon.log[before:]
        assert f"process {pid} (" in log
        assert log.count("paused (ledger)") == 1
        assert log.count("resumed (ledger)") == 1
        assert "Traceback" not in log


async def test_readers_get_the_holder_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_ledger(path) as ledger:
        await ledger.write(add_jobs, [build_job("a.wav")])
    with hold_ledger(path, pragma="PRAGMA locking_mode = EXCLUSIVE") as pid:
        with pytest.raises(LedgerHeld, match="another program") as refused:
            query_readonly(path, "SELECT 1 FROM jobs")
        if locks.LOCKS.exists():
            assert f"process {pid} (" in str(refused.value)
            assert [program.pid for program in find_holders(path)] == [pid]
    assert query_readonly(path, "SELECT count(*) AS n FROM jobs") == [{"n": 1}]
    assert find_holders(path) == []
