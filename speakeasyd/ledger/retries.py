"""Retries of completed jobs: the new text is collected beside the finished one and replaces it.

During a retry, `chunks` and `segments` hold the finished transcript, so that readers and the search
see it. The chunks of the new attempt are in `retry_chunks`. The row in `retries` keeps the earlier
columns of the job.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import text as sql

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
"""SQL subquery in a query on `jobs`: the chunks of the current attempt."""

_UNWRITTEN = exists().where(
    artifacts.c.job_id == retries.c.job_id, artifacts.c.written_at.is_(None)
)

_NULLS_OF_CHUNK = {column.name: None for column in chunks.c if column.nullable}
_NULLS_OF_SEGMENT = {column.name: None for column in segments.c if column.nullable}
"""What a row has in columns that an earlier version, which stored it, did not know."""

_RETRIED = select(retries.c.job_id).where(
    retries.c.job_id.in_(bindparam("job_ids", expanding=True))
)
_SPOKEN = (
    select(
        segments.c.job_id,
        segments.c.language,
        func.sum(segments.c.end_seconds - segments.c.start_seconds).label("seconds"),
    )
    .where(segments.c.job_id.in_(bindparam("job_ids", expanding=True)))
    .group_by(segments.c.job_id, segments.c.language)
)
_NUMBER_CHUNKS = (
    update(chunks)
    .where(chunks.c.job_id == bindparam("job"), chunks.c.number == bindparam("chunk"))
    .values(speaker_numbers=bindparam("numbers"))
)
_NUMBER_RETRIED = sql("""
    UPDATE retry_chunks SET content = json_set(content, '$.chunk.speaker_numbers', :numbers)
    WHERE job_id = :job AND number = :chunk
""")

Rows = Sequence[Mapping[str, object]]


def begin_retry(tx: Transaction, job_ids: Sequence[JobId], columns: Iterable[str]) -> None:
    """Store the given columns of the completed ones among these jobs: they will be reset."""
    names = list(columns)
    completed = jobs.c.id.in_(job_ids) & (jobs.c.status == Status.COMPLETED)
    results = tx.connection.execute(
        select(jobs.c.id, *(jobs.c[name] for name in names)).where(completed)
    ).all()
    rows = [
        {"job_id": row.id, "result": encode_json({name: row._mapping[name] for name in names})}
        for row in results
    ]
    if rows:
        tx.connection.execute(insert(retries), rows)


def find_retried(connection: Connection, job_ids: Iterable[int]) -> set[JobId]:
    """Return those of these jobs that are being retried and have a finished transcript."""
    return {JobId(id_) for id_ in connection.scalars(_RETRIED, {"job_ids": list(job_ids)})}


def find_result(connection: Connection, job_id: JobId) -> dict[str, Any]:
    """Return the columns of a job as of its finished transcript; empty if it is no retry."""
    result = connection.scalar(select(retries.c.result).where(retries.c.job_id == job_id))
    return json.loads(result) if result else {}


def keep_chunk(tx: Transaction, chunk: Mapping[str, object], texts: Rows) -> None:
    """Store a chunk of a retry, given as rows of `chunks` and `segments`."""
    names = ("job_id", "number", "start_seconds", "end_seconds", "gap")
    values = {name: chunk[name] for name in names}
    same_language = [row for row in texts if row["language"] == chunk["language"]]
    text = "".join(str(row["text"]) for row in same_language)
    content = encode_json({"chunk": chunk, "segments": texts})
    tx.connection.execute(insert(retry_chunks).values(**values, text=text, content=content))


def read_segments(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    """Return the segments of the retry, as rows of `segments`, ordered by time."""
    contents = select(retry_chunks.c.content).where(retry_chunks.c.job_id == job_id)
    rows = [row for content in connection.scalars(contents) for row in _parse_content(content)[1]]
    return sorted(rows, key=lambda row: (row["start_seconds"], row["chunk"], row["position"]))


def _parse_content(content: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of `chunks` and `segments`; columns that an earlier version did not know are null."""
    parsed = json.loads(content)
    chunk: dict[str, Any] = _NULLS_OF_CHUNK | parsed["chunk"]
    return chunk, [_NULLS_OF_SEGMENT | row for row in parsed["segments"]]


def read_work_chunks(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    """Return the chunks of the current attempt, as rows of `chunks`, by number."""
    if find_retried(connection, [job_id]):
        contents = select(retry_chunks.c.content).where(retry_chunks.c.job_id == job_id)
        ordered = contents.order_by(retry_chunks.c.number)
        return [_parse_content(content)[0] for content in connection.scalars(ordered)]
    rows = select(chunks).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    return [dict(row) for row in connection.execute(rows).mappings()]


def begin_copy(tx: Transaction, job_id: JobId, columns: Iterable[str]) -> None:
    """Begin a retry of a completed job whose chunks are copies of the finished ones."""
    begin_retry(tx, [job_id], columns)
    texts: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    ordered = select(segments).where(segments.c.job_id == job_id).order_by(segments.c.position)
    for row in tx.connection.execute(ordered).mappings():
        texts[row["chunk"]].append({name: row[name] for name in row if name != "id"})
    finished = select(chunks).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    for row in tx.connection.execute(finished).mappings().all():
        keep_chunk(tx, dict(row), texts[row["number"]])


def store_speaker_numbers(
    tx: Transaction, job_id: JobId, numbers: Mapping[int, Sequence[int]]
) -> None:
    """Store the numbers of the local speakers in the chunks of the current attempt."""
    rows = [
        {"job": job_id, "chunk": chunk, "numbers": encode_json(list(of_chunk))}
        for chunk, of_chunk in numbers.items()
    ]
    if not rows:
        return
    if find_retried(tx.connection, [job_id]):
        tx.connection.execute(_NUMBER_RETRIED, rows)
    else:
        tx.connection.execute(_NUMBER_CHUNKS, rows)


def read_work_segments(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    """Return the segments of the current attempt, as rows of `segments`."""
    if find_retried(connection, [job_id]):
        return read_segments(connection, job_id)
    rows = connection.execute(select(segments).where(segments.c.job_id == job_id))
    return [dict(row) for row in rows.mappings()]


def read_spoken_languages(
    connection: Connection, job_ids: Collection[JobId], retried: set[JobId]
) -> defaultdict[JobId, list[tuple[str | None, float]]]:
    """Return languages of the current attempts with seconds of speech; one may be repeated.

    `retried`: see `find_retried`. Of a long file in one row a language: SQLite gives up Python's
    interpreter lock for each row, and this runs while the ledger is locked.
    """
    spoken = defaultdict[JobId, list[tuple[str | None, float]]](list)
    for row in connection.execute(_SPOKEN, {"job_ids": list(set(job_ids) - retried)}):
        spoken[row.job_id].append((row.language, row.seconds))
    for job_id in retried.intersection(job_ids):
        for segment in read_segments(connection, job_id):
            seconds = segment["end_seconds"] - segment["start_seconds"]
            spoken[job_id].append((segment["language"], seconds))
    return spoken


def replace_finished(tx: Transaction, job_ids: Collection[JobId]) -> None:
    """Replace the finished transcripts of those of these jobs that are retries."""
    for job_id in find_retried(tx.connection, job_ids):
        contents = select(retry_chunks.c.content).where(retry_chunks.c.job_id == job_id)
        retried = [
            _parse_content(content)
            for content in tx.connection.scalars(contents.order_by(retry_chunks.c.number))
        ]
        tx.connection.execute(delete(chunks).where(chunks.c.job_id == job_id))
        if retried:
            tx.connection.execute(insert(chunks), [chunk for chunk, _ in retried])
        if texts := [row for _, rows in retried for row in rows]:
            tx.connection.execute(insert(segments), texts)
        tx.connection.execute(delete(retries).where(retries.c.job_id == job_id))
        tx.connection.execute(update(jobs).where(jobs.c.id == job_id).values(retry_error=None))


def restore_finished(
    tx: Transaction, job_ids: Sequence[JobId], *, error: str | None
) -> list[JobId]:
    """Restore the jobs among these whose retry ended without a complete text. Returns them.

    `error`: why the retry failed; None: a person cancelled it. If artifacts of the retry may have
    been written, the job becomes pending, so that the artifacts of its finished transcript are
    written again.
    """
    query = select(retries.c.job_id, retries.c.result, _UNWRITTEN).where(
        retries.c.job_id.in_(job_ids)
    )
    rows = tx.connection.execute(query).all()
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
