"""Another program holds the ledger: the log, status and health say so, and who has to let go."""

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
from tests.ledgers import a_file, opened
from tests.served import Served, serving, until

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""

needs_linux = pytest.mark.skipif(
    not locks.LOCKS.exists(), reason="only Linux tells who holds a lock"
)


@contextmanager
def held(ledger: Path, *, pragma: str = "SELECT 1") -> Iterator[int]:
    """By another program, whose number this is."""
    command = [sys.executable, "-c", _HOLD, str(ledger), pragma]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        yield child.pid
        assert child.stdin
        child.stdin.close()


def shown(daemon: Served) -> Any:
    command = [sys.executable, "-m", "speakeasyd", "status", "--json", "--state", str(daemon.state)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


@needs_linux
def test_all_say_who_holds_it_and_the_log_says_it_once(tmp_path: Path) -> None:
    with serving(tmp_path, NOTIFY__HOOK='["true"]') as daemon:
        before = len(daemon.log)
        with held(daemon.state / "ledger.db") as pid:
            until(lambda: "paused (ledger)" in daemon.log[before:], "the log to say it")
            ready = until(lambda: daemon.client.get("/readyz"), "an answer")
            assert ready.status_code == 503
            health = daemon.client.get("/healthz").json()
            for text in (ready.text, health["checks"]["ledger"], shown(daemon)["pauses"]["ledger"]):
                assert f"process {pid} (" in text
            until(lambda: not daemon.client.get("/readyz").is_success, "another look")
        until(lambda: "resumed (ledger)" in daemon.log[before:], "the daemon to go on")
        until(lambda: daemon.client.get("/readyz").is_success, "the daemon to be ready")
        assert "ledger" not in shown(daemon)["pauses"]
        log = daemon.log[before:]
        assert f"process {pid} (" in log
        assert log.count("paused (ledger)") == 1
        assert log.count("resumed (ledger)") == 1
        assert "Traceback" not in log


async def test_who_only_wants_to_read_is_told_as_well(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with opened(path) as ledger:
        await ledger.write(add_jobs, [a_file("a.wav")])
    with held(path, pragma="PRAGMA locking_mode = EXCLUSIVE") as pid:
        with pytest.raises(LedgerHeld, match="another program") as refused:
            query_readonly(path, "SELECT 1 FROM jobs")
        if locks.LOCKS.exists():
            assert f"process {pid} (" in str(refused.value)
            assert [program.pid for program in find_holders(path)] == [pid]
    assert query_readonly(path, "SELECT count(*) AS n FROM jobs") == [{"n": 1}]
    assert find_holders(path) == []
