"""Several processes on one ledger, and one that is killed at random moments."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.errors import ClaimLost
from speakeasyd.ledger.claims import claim_jobs, fail_job, find_next_job
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import store_results
from tests.conftest import REPOSITORY
from tests.ledgers import add_claimed_jobs, build_chunk, build_job, create_ledger, open_ledger

ROUNDS = 6

USER_PROGRAM = """
import asyncio, sys
from pathlib import Path
from speakeasyd.clock import SystemClock
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.readonly import find_matching_jobs

async def main():
    ledger = await Ledger.open(Path(sys.argv[1]), clock=SystemClock(), hub=EventHub())
    for _ in range(20):
        await ledger.retry_jobs(find_matching_jobs(ledger.path, "status = 'failed'"))
        await ledger.cancel_jobs([1])
        await ledger.retry_jobs([1])
    await ledger.close()

asyncio.run(main())
"""

DAEMON_PROGRAM = """
import asyncio, sys
from pathlib import Path
from speakeasyd.clock import SystemClock
from speakeasyd.events import EventHub
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import release_stale_claims
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.results import store_results
from tests.ledgers import build_chunk, build_job, finish_job

async def work(ledger, worker):
    for number in range(1000):
        [added] = await ledger.write(add_jobs, [build_job(f"{sys.argv[2]} {worker} {number}.wav")])
        print("added", added.job_id, flush=True)
        for job in await ledger.write(claim_jobs, 1):
            await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " One"))])
            print("chunk", job.id, flush=True)
            await finish_job(ledger, job, " One", " two.")
            print("completed", job.id, flush=True)

async def main():
    ledger = await Ledger.open(Path(sys.argv[1]), clock=SystemClock(), hub=EventHub(), boot_id=sys.argv[2])
    await ledger.write(release_stale_claims)
    await asyncio.gather(*(work(ledger, worker) for worker in range(3)))

asyncio.run(main())
"""


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    create_ledger(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


async def test_users_and_daemon_write_at_the_same_time(ledger_path: Path) -> None:
    """No write is refused, and a user's change of a job holds."""
    async with open_ledger(ledger_path, clock=SystemClock()) as ledger:
        await ledger.write(add_jobs, [build_job(f"{i}") for i in range(5)])
        person = await asyncio.create_subprocess_exec(
            sys.executable, "-c", USER_PROGRAM, str(ledger_path), cwd=REPOSITORY
        )
        leaving = asyncio.create_task(person.wait())
        failed = lost = 0
        while not leaving.done():
            for job in await ledger.write(claim_jobs, 5):
                taken = await ledger.write(
                    store_results, [(job.id, job.token, build_chunk(0, " One."))]
                )
                lost += len(taken)
                with suppress(ClaimLost):
                    await ledger.write(fail_job, job.id, job.token, code="internal", error="again")
                    failed += 1
                    assert not taken
        assert await leaving == 0
        assert failed > 5
        [open_attempts] = query_readonly(
            ledger.path, "SELECT count(*) AS n FROM attempts WHERE outcome IS NULL"
        )
        assert open_attempts["n"] == 0


async def test_readers_and_writer_do_not_block_each_other(ledger_path: Path) -> None:
    async with open_ledger(ledger_path) as ledger:
        await add_claimed_jobs(ledger, build_job("a"))
        with closing(sqlite3.connect(ledger_path, timeout=0, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
            await ledger.write(add_jobs, [build_job("b")])  # during a read transaction
            assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        with closing(sqlite3.connect(ledger_path, timeout=0, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert query_readonly(ledger.path, "SELECT count(*) AS n FROM job_status") == [
                {"n": 2}
            ]  # during a write transaction
            first = await ledger.read(find_next_job, ledger.now())
            assert first
            assert first.model == "auto"


def test_a_killed_daemon_keeps_all_committed_changes(ledger_path: Path) -> None:
    promised: set[tuple[str, int]] = set()
    for number in range(ROUNDS):
        promised |= run_and_kill(ledger_path, boot_id=f"boot {number}", after=5 + 17 * number)
        with closing(sqlite3.connect(ledger_path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            connection.execute("INSERT INTO segments_fts(segments_fts) VALUES ('integrity-check')")
            assert {
                (verb, job_id) for verb, job_id in promised if not is_kept(connection, verb, job_id)
            } == set()
            counted = connection.execute(
                "SELECT count(*), sum(status = 'completed') FROM jobs"
            ).fetchone()
            assert (
                connection.execute(
                    "SELECT sum(total), sum(completed) FROM batch_progress"
                ).fetchone()
                == counted
            )
    assert {verb for verb, _ in promised} == set(CHECKS)


CHECKS = {
    "added": "SELECT 1 FROM jobs WHERE id = ?",
    "chunk": "SELECT 1 FROM chunks WHERE job_id = ?",
    "completed": "SELECT 1 FROM job_status WHERE status = 'completed' AND job_id = ?",
}


def is_kept(connection: sqlite3.Connection, verb: str, job_id: int) -> bool:
    return connection.execute(CHECKS[verb], [job_id]).fetchone() is not None


def run_and_kill(ledger_path: Path, *, boot_id: str, after: int) -> set[tuple[str, int]]:
    """Kill a daemon after this number of words. Returns its words, each printed after a commit."""
    command = [sys.executable, "-c", DAEMON_PROGRAM, str(ledger_path), boot_id]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout
        lines = [daemon.stdout.readline() for _ in range(after)]
        daemon.kill()
        lines += daemon.stdout.readlines()
    return {
        (verb, int(job_id))
        for verb, job_id in (line.split() for line in lines if line.endswith("\n"))
    }
