"""Reuse of transcripts: a completed job with the same work key lends its chunks to the next."""

from typing import Any

from sqlalchemy import ColumnElement, Table, delete, insert, literal, select, update

from speakeasyd.domain.event_payloads import JobLent
from speakeasyd.domain.job import JobId
from speakeasyd.ledger.tables import chunks, jobs, segments
from speakeasyd.ledger.writer import Transaction

LENDER = """(
    SELECT min(lender.id) FROM jobs AS lender INDEXED BY ix_jobs_sha256
    WHERE lender.sha256 = jobs.sha256 AND lender.work_key = jobs.work_key
    AND lender.status = 'completed' AND NOT jobs.transcribed
    AND NOT EXISTS (SELECT 1 FROM chunks WHERE job_id = lender.id AND gap)
) AS lender"""
"""SQL column in a query on `jobs`: the completed job with the same work key and without a gap."""

_RESULT = (
    "progress",
    "audio_seconds",
    "container_seconds",
    "language",
    "language_probability",
    "model",
    "device",
    "warning",
    "warning_kinds",
    "tracks",
    "transcribed",
)


def copy_transcript(tx: Transaction, *, lender: JobId, to: JobId) -> None:
    """Copy chunks, segments and result columns: afterwards only the artifacts are missing."""
    tx.connection.execute(delete(chunks).where(chunks.c.job_id == to))
    _copy_table(tx, chunks, lender, to)
    _copy_table(tx, segments, lender, to)
    result = select(*(jobs.c[name] for name in _RESULT)).where(jobs.c.id == lender)
    tx.connection.execute(
        update(jobs).where(jobs.c.id == to).values(tx.connection.execute(result).mappings().one())
    )
    tx.record_event(JobLent(lender=lender), to)


def _copy_table(tx: Transaction, table: Table, lender: JobId, to: JobId) -> None:
    """Copy the rows of `lender`; the copies have the new job's id and a compute time of 0."""
    own: dict[str, ColumnElement[Any]] = {"job_id": literal(to), "compute_seconds": literal(0.0)}
    names = [column.name for column in table.c if column.name != "id"]
    copies = select(*(own.get(name, table.c[name]) for name in names)).where(
        table.c.job_id == lender
    )
    tx.connection.execute(insert(table).from_select(names, copies))
