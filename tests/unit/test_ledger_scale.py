"""With many jobs the hot questions go by an index; a plan that sorts or scans would pass every other test."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import ClauseElement
from sqlalchemy.dialects import sqlite

from speakeasyd.ledger import claims
from tests.ledgers import create, fill

JOBS = 20_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("crowded") / "ledger.db"
    create(path)
    with closing(sqlite3.connect(path)) as connection:
        fill(connection, JOBS)
        yield connection


def plan(connection: sqlite3.Connection, query: str) -> list[str]:
    """How SQLite goes about it: one line a step. Parameters need no values for that."""
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]


def compiled(statement: ClauseElement) -> str:
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
def test_a_page_is_found_by_an_index(crowded: sqlite3.Connection, query: str) -> None:
    steps = plan(crowded, query)
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step], steps


def test_a_text_is_put_together_from_its_own_segments(crowded: sqlite3.Connection) -> None:
    steps = plan(crowded, "SELECT * FROM transcript_text WHERE job_id = 5")
    assert "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)" in steps
    assert not [step for step in steps if step.startswith(("SCAN jobs", "SCAN segments"))], steps


@pytest.mark.parametrize("model", [None, "auto"])
@pytest.mark.parametrize("inboxes", [None, ["inbox"]])
def test_the_next_job_is_found_without_sorting(
    crowded: sqlite3.Connection, model: str | None, inboxes: list[str] | None
) -> None:
    queue = claims.select_claimable("*", "2027", 1, model=model, inboxes=inboxes)
    steps = plan(crowded, compiled(queue))
    assert steps[0].startswith(
        "SEARCH jobs USING INDEX ix_jobs_claim" if model else "SCAN jobs USING INDEX ix_jobs_next"
    )
    assert not [step for step in steps if "TEMP B-TREE" in step]


def test_batches_are_summed_up_from_their_counts(crowded: sqlite3.Connection) -> None:
    steps = plan(crowded, "SELECT * FROM batch_progress")
    assert not [
        step
        for step in steps
        if step.startswith(("SCAN jobs", "SEARCH jobs USING INDEX ix_jobs_batch"))
    ], steps
    rows = crowded.execute(
        "SELECT total, completed, pending, audio_seconds, progress FROM batch_progress"
    ).fetchall()
    assert sum(row[0] for row in rows) == JOBS
    assert sum(row[3] for row in rows) == JOBS / 2 * 10.0
    assert sum(row[4] for row in rows) / len(rows) == pytest.approx(0.5)
