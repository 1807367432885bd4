"""Results of workers: committed chunks, strikes, and completed transcriptions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select, tuple_, update
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.domain.event_payloads import ChunkDone, ChunkStruck, JobTranscribed
from speakeasyd.domain.job import JobId, Status, Token
from speakeasyd.domain.languages import choose_main_language
from speakeasyd.domain.transcript import (
    Chunk,
    MediaWarning,
    TranscribedTrack,
    WarningKind,
    join_texts,
)
from speakeasyd.ledger import retries
from speakeasyd.ledger.tables import chunks, jobs, retry_chunks, segments, strikes
from speakeasyd.ledger.text_columns import encode_json
from speakeasyd.ledger.transitions import require_claim, update_owned_job
from speakeasyd.ledger.writer import Transaction

ALMOST = 0.99  # highest progress while more chunks may come

_CLAIMED = select(jobs.c.id, jobs.c.claim_token, jobs.c.container_seconds, jobs.c.progress).where(
    jobs.c.id.in_(bindparam("job_ids", expanding=True)), jobs.c.status == Status.PROCESSING
)
_KEPT = {
    table: select(table.c.job_id, table.c.number).where(
        tuple_(table.c.job_id, table.c.number).in_(bindparam("keys", expanding=True))
    )
    for table in (chunks, retry_chunks)
}
_ADVANCE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(
        progress=bindparam("reached"), compute_seconds=jobs.c.compute_seconds + bindparam("spent")
    )
)


def store_chunks(tx: Transaction, done: Sequence[tuple[JobId, Token, Chunk]]) -> frozenset[JobId]:
    """Commit chunks. Idempotent: a chunk that is committed already stays as it is.

    Returns the jobs whose claim is lost; their chunks are not stored.
    """
    held = _find_claimed(tx.connection, {job_id for job_id, _, _ in done})
    ours = {(row.id, row.claim_token) for row in held.values()}
    retried = retries.find_retried(tx.connection, held)
    fresh = _select_new_chunks(
        tx.connection,
        [(job_id, chunk) for job_id, token, chunk in done if (job_id, token) in ours],
        retried,
    )
    if fresh:
        _insert_chunks(tx, fresh, retried)
        tx.connection.execute(_ADVANCE, _compute_progress(tx, fresh, held))
    return frozenset(job_id for job_id, token, _ in done if (job_id, token) not in ours)


def _insert_chunks(
    tx: Transaction, fresh: Sequence[tuple[JobId, Chunk]], retried: set[JobId]
) -> None:
    """Insert chunks. Those of a retry stay beside the finished transcript until it is complete."""
    rows: list[dict[str, object]] = []
    texts: list[dict[str, object]] = []
    for job_id, chunk in fresh:
        if job_id in retried:
            retries.keep_chunk(
                tx, _build_chunk_row(tx, job_id, chunk), _build_segment_rows(job_id, chunk)
            )
        else:
            rows.append(_build_chunk_row(tx, job_id, chunk))
            texts += _build_segment_rows(job_id, chunk)
    if rows:
        tx.connection.execute(insert(chunks), rows)
    if texts:
        tx.connection.execute(insert(segments), texts)


def add_strike(
    tx: Transaction, job_id: JobId, token: Token, *, chunk: int, start: float, end: float
) -> int:
    """Count a worker's death against a chunk. Returns the strikes so far. Raises ClaimLost."""
    require_claim(tx, job_id, token)
    first = upsert(strikes).values(
        job_id=job_id, chunk=chunk, start_seconds=start, end_seconds=end, strikes=1
    )
    tx.connection.execute(first.on_conflict_do_update(set_={"strikes": strikes.c.strikes + 1}))
    so_far = select(strikes.c.strikes).where(strikes.c.job_id == job_id, strikes.c.chunk == chunk)
    count: int = tx.connection.execute(so_far).scalar_one()
    tx.record_event(ChunkStruck(chunk=chunk, strikes=count), job_id)
    return count


_LANGUAGE = select(jobs.c.language).where(jobs.c.id == bindparam("job"))
_GIVEN_UP = {
    table: select(table.c.start_seconds, table.c.end_seconds)
    .where(table.c.job_id == bindparam("job"), table.c.gap)
    .order_by(table.c.start_seconds)
    for table in (chunks, retry_chunks)
}


def mark_transcribed(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    *,
    audio_seconds: float,
    warnings: Sequence[MediaWarning] = (),
    tracks: Sequence[TranscribedTrack] = (),
) -> None:
    """Record that all chunks are committed. Gaps are added to the warnings. Raises ClaimLost."""
    work = retries.get_work_table(tx.connection, job_id)
    given_up = find_gaps(tx.connection, job_id, work)
    missing = ", ".join(f"{start:.1f} s to {end:.1f} s" for start, end in given_up)
    if missing:
        warnings = [*warnings, MediaWarning(WarningKind.LEFT_OUT, f"not transcribed: {missing}")]
    kinds = sorted({warning.kind for warning in warnings})
    update_owned_job(
        tx,
        job_id,
        token,
        transcribed=True,
        progress=1.0,
        audio_seconds=audio_seconds,
        warning=join_texts(warnings),
        warning_kinds=encode_json(kinds) if kinds else None,
        tracks=encode_json([asdict(track) for track in tracks]) if tracks else None,
        **_main_language(tx.connection, job_id, work),
    )
    transcribed = JobTranscribed(
        audio_seconds=audio_seconds, warning=join_texts(warnings), warning_kinds=kinds
    )
    tx.record_event(transcribed, job_id)


def _main_language(connection: Connection, job_id: JobId, work: Table) -> dict[str, str | None]:
    """Return the columns to change if most speech is in another language than the detected one."""
    detected: str | None = connection.scalar(_LANGUAGE, {"job": job_id})
    main = choose_main_language(retries.read_spoken_languages(connection, job_id, work), detected)
    return {} if main == detected else {"language": main, "language_probability": None}


def find_gaps(
    connection: Connection, job_id: JobId, table: Table = chunks
) -> tuple[tuple[float, float], ...]:
    """Return start and end in seconds of the chunks that were given up."""
    rows = connection.execute(_GIVEN_UP[table], {"job": job_id})
    return tuple((start, end) for start, end in rows)


def _find_claimed(connection: Connection, job_ids: set[JobId]) -> Mapping[JobId, Any]:
    """Return the rows of these jobs that are claimed, by any claim."""
    rows = connection.execute(_CLAIMED, {"job_ids": list(job_ids)})
    return {row.id: row for row in rows}


def _select_new_chunks(
    connection: Connection, done: Sequence[tuple[JobId, Chunk]], retried: set[JobId]
) -> list[tuple[JobId, Chunk]]:
    """Return the chunks that are not committed yet, each once."""
    by_key = {(job_id, chunk.index): (job_id, chunk) for job_id, chunk in done}
    kept: set[tuple[int, int]] = set()
    for table, keys in (
        (chunks, [key for key in by_key if key[0] not in retried]),
        (retry_chunks, [key for key in by_key if key[0] in retried]),
    ):
        if keys:
            kept |= {
                (row.job_id, row.number) for row in connection.execute(_KEPT[table], {"keys": keys})
            }
    return [item for key, item in by_key.items() if key not in kept]


def _compute_progress(
    tx: Transaction, fresh: Sequence[tuple[JobId, Chunk]], held: Mapping[JobId, Any]
) -> list[dict[str, object]]:
    """Return the progress of each job, and record `chunk.done` for each chunk.

    Progress is the end of the last chunk divided by the container's duration, if that is known.
    """
    by_job: defaultdict[JobId, list[Chunk]] = defaultdict(list)
    for job_id, chunk in fresh:
        by_job[job_id].append(chunk)
    advances: list[dict[str, object]] = []
    for job_id, new in by_job.items():
        length = held[job_id].container_seconds
        reached = min(ALMOST, max(chunk.end for chunk in new) / length) if length else 0.0
        progress = max(held[job_id].progress, reached)
        advances.append(
            {"job_id": job_id, "reached": progress, "spent": sum(chunk.compute_s for chunk in new)}
        )
        for chunk in new:
            done = ChunkDone(chunk=chunk.index, end=chunk.end, gap=chunk.gap, progress=progress)
            tx.record_event(done, job_id)
    return advances


def _build_chunk_row(tx: Transaction, job_id: JobId, chunk: Chunk) -> dict[str, object]:
    return {
        "job_id": job_id,
        "number": chunk.index,
        "start_seconds": chunk.start,
        "end_seconds": chunk.end,
        "channel": chunk.channel,
        "redone": chunk.redone,
        "gap": chunk.gap,
        "compute_seconds": chunk.compute_s,
        "committed_at": tx.now,
        "language": chunk.language,
        "track": chunk.track,
        "speakers": encode_json(chunk.speakers.to_json()) if chunk.speakers else None,
        "speaker_numbers": None,
    }


def _build_segment_rows(job_id: JobId, chunk: Chunk) -> list[dict[str, object]]:
    return [
        {
            "job_id": job_id,
            "chunk": chunk.index,
            "position": position,
            "start_seconds": segment.start,
            "end_seconds": segment.end,
            "text": segment.text,
            "channel": segment.channel,
            "avg_logprob": segment.avg_logprob,
            "compression_ratio": segment.compression_ratio,
            "no_speech_prob": segment.no_speech_prob,
            "words": encode_json([asdict(w) for w in segment.words]) if segment.words else None,
            "language": segment.language,
            "track": segment.track,
            "local_speaker": segment.local_speaker,
            "confidence": segment.confidence,
        }
        for position, segment in enumerate(chunk.segments)
    ]
