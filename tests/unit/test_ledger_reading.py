"""Users' queries can read everything and change nothing."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from speakeasyd.errors import LedgerError, QueryError
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import store_results
from tests.ledgers import add_claimed_jobs, build_chunk, build_job, open_ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
        await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " The fox."))])
        yield ledger


HOSTILE = [
    "DELETE FROM jobs",
    "UPDATE jobs SET status = 'failed'",
    "WITH gone AS (SELECT 1) DELETE FROM segments",
    "INSERT INTO state VALUES ('a', 'b', 'c')",
    "CREATE TABLE mine (a)",
    "CREATE TEMP TABLE mine (a)",
    "DROP VIEW job_status",
    "ATTACH 'other.db' AS other",
    "ATTACH ':memory:' AS other",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "REINDEX",
    "PRAGMA query_only = OFF",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_master SET sql = ''",
    "PRAGMA wal_checkpoint",
    "BEGIN IMMEDIATE",
    "SELECT 1; DELETE FROM jobs",
    "SELECT load_extension('evil')",
    "INSERT INTO segments_fts(segments_fts) VALUES ('delete-all')",
]


@pytest.mark.parametrize("statement", HOSTILE)
async def test_nothing_can_be_changed(ledger: Ledger, tmp_path: Path, statement: str) -> None:
    files = {file.name for file in tmp_path.iterdir()}
    with pytest.raises(QueryError):
        query_readonly(ledger.path, statement)
    assert {file.name for file in tmp_path.iterdir()} == files
    [counts] = query_readonly(
        ledger.path,
        "SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM state) AS states",
    )
    assert counts == {"jobs": 1, "states": 0}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT path FROM job_status",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
        "EXPLAIN QUERY PLAN SELECT * FROM job_status",
        "PRAGMA table_info(jobs)",
        "PRAGMA integrity_check",
        "SELECT * FROM segments_fts WHERE segments_fts MATCH 'fox'",
        "SELECT value FROM json_each('[1]')",
        "VALUES (1)",
    ],
)
async def test_everything_can_be_read(ledger: Ledger, query: str) -> None:
    assert query_readonly(ledger.path, query)


async def test_parameters_by_name_or_position(ledger: Ledger) -> None:
    assert query_readonly(ledger.path, "SELECT :a AS b", {"a": "it's"}) == [{"b": "it's"}]
    assert query_readonly(ledger.path, "SELECT ? AS b", [2]) == [{"b": 2}]


def test_a_slow_query_is_stopped(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute("CREATE TABLE jobs (id)")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(QueryError, match="longer than"):
        query_readonly(tmp_path / "ledger.db", endless, limit_s=0.05)


def test_reading_needs_no_daemon_and_creates_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        query_readonly(tmp_path / "ledger.db", "SELECT 1")
    assert list(tmp_path.iterdir()) == []


async def test_reading_works_before_and_after_the_daemon(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.write(add_jobs, [build_job("a.wav")])
        assert query_readonly(tmp_path / "ledger.db", "SELECT path FROM job_status") == [
            {"path": "a.wav"}
        ]
    assert query_readonly(tmp_path / "ledger.db", "SELECT path FROM job_status") == [
        {"path": "a.wav"}
    ]


def test_reading_is_quick_to_import() -> None:
    code = "import sys, speakeasyd.ledger.readonly; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"sqlalchemy", "alembic", "asyncio"} & set(loaded)
