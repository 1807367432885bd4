"""With many jobs, frequent queries use an index. Other tests would not notice a scan."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Select
from sqlalchemy.dialects import sqlite

from speakeasyd.ledger import claims, publication, results
from speakeasyd.ledger.tables import chunks
from tests.ledgers import create_ledger, insert_jobs

JOBS = 20_000


@pytest.fixture(scope="module")
def large_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("crowded") / "ledger.db"
    create_ledger(path)
    with closing(sqlite3.connect(path)) as connection:
        insert_jobs(connection, JOBS)
        yield connection


def explain_query(connection: sqlite3.Connection, query: str) -> list[str]:
    """Return the steps of SQLite's query plan. Parameters need no values."""
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]


def compile_statement(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))


PAGES = {
    "the newest of a status": "SELECT * FROM job_status WHERE status = 'completed' ORDER BY job_id DESC LIMIT 50",
    "the last that ended": "SELECT * FROM job_status WHERE status = 'completed' ORDER BY finished_at DESC LIMIT 50",
    "a batch": "SELECT * FROM job_status WHERE batch = 'batch 3' ORDER BY job_id LIMIT 50",
    "what fails": "SELECT * FROM failures LIMIT 50",
    "the latest events": "SELECT * FROM events WHERE seq > 5 ORDER BY seq LIMIT 50",
    "what a job went through": "SELECT * FROM events WHERE job_id = 5 ORDER BY seq",
    "a file's versions": "SELECT id FROM jobs WHERE inbox = 'inbox' AND path_raw IN (x'01', x'02')",
    "jobs that ended long ago": "SELECT id FROM jobs WHERE finished_at IS NOT NULL AND finished_at < '2026' LIMIT 500",
    "jobs of an earlier daemon": "SELECT id FROM jobs WHERE status = 'processing' AND boot_id <> 'x'",
}


@pytest.mark.parametrize("query", PAGES.values(), ids=PAGES)
def test_a_page_uses_an_index(large_ledger: sqlite3.Connection, query: str) -> None:
    steps = explain_query(large_ledger, query)
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step], steps


SHARED = {
    "the holders of names": (
        publication._HOLDERS,
        {"outboxes": ["/outbox"], "keys": ["a.txt", "b.txt"]},
    ),
    "versions": (publication._VERSIONS, {"job_ids": [1, 2]}),
    "versions among others": (publication._AMONG, {"job_ids": [1, 2], "among": [3, 4]}),
    "own files": (publication._OWN_FILES, {"job_ids": [1, 2]}),
    "segments": (publication._SEGMENTS, {"job_ids": [1, 2]}),
    "chunks that are kept": (results._KEPT[chunks], {"job_ids": [1, 2], "numbers": [0, 1]}),
    "gaps": (results._GIVEN_UP[chunks], {"job_ids": [1, 2]}),
}


@pytest.mark.parametrize(("statement", "values"), SHARED.values(), ids=SHARED)
def test_a_statement_for_several_jobs_uses_an_index(
    large_ledger: sqlite3.Connection, statement: Select[Any], values: dict[str, Any]
) -> None:
    steps = explain_query(large_ledger, compile_statement(statement.params(values)))
    assert not [step for step in steps if step.startswith("SCAN")], steps


def test_a_text_is_read_from_its_own_segments(large_ledger: sqlite3.Connection) -> None:
    steps = explain_query(large_ledger, "SELECT * FROM transcript_text WHERE job_id = 5")
    assert "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)" in steps
    assert not [step for step in steps if step.startswith(("SCAN jobs", "SCAN segments"))], steps


@pytest.mark.parametrize("model", [None, "auto"])
@pytest.mark.parametrize("inboxes", [None, ["inbox"]])
def test_the_next_job_is_found_without_sorting(
    large_ledger: sqlite3.Connection, model: str | None, inboxes: list[str] | None
) -> None:
    queue = claims.select_claimable("*", "2027", 1, model=model, inboxes=inboxes)
    steps = explain_query(large_ledger, compile_statement(queue))
    assert steps[0].startswith(
        "SEARCH jobs USING INDEX ix_jobs_claim" if model else "SCAN jobs USING INDEX ix_jobs_next"
    )
    assert not [step for step in steps if "TEMP B-TREE" in step]


def test_batches_are_read_from_their_counts(large_ledger: sqlite3.Connection) -> None:
    steps = explain_query(large_ledger, "SELECT * FROM batch_progress")
    assert not [
        step
        for step in steps
        if step.startswith(("SCAN jobs", "SEARCH jobs USING INDEX ix_jobs_batch"))
    ], steps
    rows = large_ledger.execute(
        "SELECT total, completed, pending, audio_seconds, progress FROM batch_progress"
    ).fetchall()
    assert sum(row[0] for row in rows) == JOBS
    assert sum(row[3] for row in rows) == JOBS / 2 * 10.0
    assert sum(row[4] for row in rows) / len(rows) == pytest.approx(0.5)
