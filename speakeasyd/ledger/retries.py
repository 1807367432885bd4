"""Retries of completed jobs: the new text is gathered beside the finished one, and replaces it when it is whole.

While a retry is under way, `chunks` and `segments` hold the finished transcript, so that every reader and the search
see it; what the new attempt delivers lies in `retry_chunks`. The row in `retries` keeps the job's columns as they were.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, exists, insert, select, update

from speakeasyd.domain.job import JobId, Status
from speakeasyd.ledger.tables import (
    artifacts,
    chunks,
    jobs,
    retries,
    retry_chunks,
    segments,
    strikes,
)
from speakeasyd.ledger.text_columns import encode_json
from speakeasyd.ledger.writer import Transaction

WORK_CHUNKS = """(
    SELECT job_id, number, gap, content ->> '$.chunk.language' AS language
    FROM retry_chunks WHERE job_id = jobs.id
    UNION ALL
    SELECT job_id, number, gap, language FROM chunks
    WHERE job_id = jobs.id AND NOT EXISTS (SELECT 1 FROM retries WHERE job_id = jobs.id)
)"""
"""In SQL over `jobs`: the chunks of the attempt that is under way."""

_UNWRITTEN = exists().where(
    artifacts.c.job_id == retries.c.job_id, artifacts.c.written_at.is_(None)
)

Rows = Sequence[Mapping[str, object]]


def begin_retry(tx: Transaction, job_ids: Sequence[JobId], columns: Iterable[str]) -> None:
    """Remember the results of those of these jobs that are completed: these columns will be reset."""
    names = list(columns)
    completed = jobs.c.id.in_(job_ids) & (jobs.c.status == Status.COMPLETED)
    found = tx.connection.execute(
        select(jobs.c.id, *(jobs.c[name] for name in names)).where(completed)
    ).all()
    rows = [
        {"job_id": row.id, "result": encode_json({name: row._mapping[name] for name in names})}
        for row in found
    ]
    if rows:
        tx.connection.execute(insert(retries), rows)


def find_retried(connection: Connection, job_ids: Iterable[int]) -> set[JobId]:
    """Those of these jobs that have a finished transcript and are transcribed again."""
    found = select(retries.c.job_id).where(retries.c.job_id.in_(list(job_ids)))
    return {JobId(job_id) for job_id in connection.scalars(found)}


def find_result(connection: Connection, job_id: JobId) -> dict[str, Any]:
    """The columns of a job as its finished transcript has them; empty unless it is being retried."""
    result = connection.scalar(select(retries.c.result).where(retries.c.job_id == job_id))
    return json.loads(result) if result else {}


def get_work_table(connection: Connection, job_id: JobId) -> Table:
    """Where the chunks of the attempt that is under way are."""
    return retry_chunks if find_retried(connection, [job_id]) else chunks


def keep_chunk(tx: Transaction, chunk: Mapping[str, object], texts: Rows) -> None:
    """Keep a chunk of a retry, as rows of `chunks` and `segments`."""
    names = ("job_id", "number", "start_seconds", "end_seconds", "gap")
    row = {name: chunk[name] for name in names}
    said = [one for one in texts if one["language"] == chunk["language"]]
    text = "".join(str(one["text"]) for one in said)
    content = encode_json({"chunk": chunk, "segments": texts})
    tx.connection.execute(insert(retry_chunks).values(**row, text=text, content=content))


def read_segments(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    """The segments of the retry, as rows of `segments`, in their order in time."""
    contents = select(retry_chunks.c.content).where(retry_chunks.c.job_id == job_id)
    rows = [
        row for content in connection.scalars(contents) for row in json.loads(content)["segments"]
    ]
    return sorted(rows, key=lambda row: (row["start_seconds"], row["chunk"], row["position"]))


def read_work_segments(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    """The segments of the attempt that is under way, as rows of `segments`."""
    if find_retried(connection, [job_id]):
        return read_segments(connection, job_id)
    found = connection.execute(select(segments).where(segments.c.job_id == job_id))
    return [dict(row) for row in found.mappings()]


def replace_finished(tx: Transaction, job_id: JobId) -> None:
    """The retry came through: its text is the job's from now on. Nothing if the job is not being retried."""
    if not find_retried(tx.connection, [job_id]):
        return
    contents = select(retry_chunks.c.content).where(retry_chunks.c.job_id == job_id)
    found = [
        json.loads(content)
        for content in tx.connection.scalars(contents.order_by(retry_chunks.c.number))
    ]
    tx.connection.execute(delete(chunks).where(chunks.c.job_id == job_id))
    if found:
        tx.connection.execute(insert(chunks), [one["chunk"] for one in found])
    if texts := [row for one in found for row in one["segments"]]:
        tx.connection.execute(insert(segments), texts)
    tx.connection.execute(delete(retries).where(retries.c.job_id == job_id))
    tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(retry_error=None))


def restore_finished(
    tx: Transaction, job_ids: Sequence[JobId], *, error: str | None
) -> list[JobId]:
    """The retry ended without a whole text: those of these jobs that were retried are as they were before.

    `error`: why it failed; None: a person cancelled it. If artifacts of the retry may have been written already, the
    job waits to have those of its finished transcript written again.
    """
    found = select(retries.c.job_id, retries.c.result, _UNWRITTEN).where(
        retries.c.job_id.in_(job_ids)
    )
    rows = tx.connection.execute(found).all()
    for job_id, result, overwritten in rows:
        values: dict[str, object] = {**json.loads(result), "claim_token": None, "boot_id": None}
        if error is not None:
            values["retry_error"] = error
        if overwritten:
            values |= {"status": Status.PENDING, "finished_at": None}
        tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
        tx.connection.execute(delete(strikes).where(strikes.c.job_id == job_id))
        tx.connection.execute(delete(retries).where(retries.c.job_id == job_id))
    return [JobId(job_id) for job_id, _, _ in rows]
