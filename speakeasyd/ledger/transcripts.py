"""Chunks going in, transcripts coming out, and the artifacts made of them."""

import json
from collections.abc import Sequence

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.transcript import Artifact, Chunk, Segment, Transcript, Word
from speakeasyd.errors import NotYours
from speakeasyd.ledger import claims
from speakeasyd.ledger.writer import Transaction

Done = tuple[JobId, Token, Chunk]

ADD_CHUNK = """
INSERT INTO chunks (job_id, idx, channel, start_s, end_s, status, redone, compute_s, committed_at)
VALUES (:job_id, :idx, :channel, :start, :end, :status, :redone, :compute_s, :now)
ON CONFLICT (job_id, idx) DO UPDATE SET status = excluded.status, channel = excluded.channel,
    start_s = excluded.start_s, end_s = excluded.end_s, redone = excluded.redone, compute_s = excluded.compute_s,
    committed_at = excluded.committed_at
"""
ADD_SEGMENT = """
INSERT INTO segments (job_id, chunk_idx, channel, start_s, end_s, text, words,
    avg_logprob, compression_ratio, no_speech_prob)
VALUES (:job_id, :idx, :channel, :start, :end, :text, :words, :avg_logprob, :compression_ratio, :no_speech_prob)
"""
ADVANCE = """
UPDATE jobs SET progress = min(0.99, max(progress, CASE WHEN audio_seconds > 0 THEN :end / audio_seconds ELSE 0 END))
WHERE id = :job_id
"""


async def record(tx: Transaction, done: Sequence[Done]) -> frozenset[JobId]:
    """Commit chunks. Returns the jobs whose claim is lost, whose chunks are left out. The same chunk again replaces it."""
    claimed = {(job_id, token) for job_id, token, _ in done}
    lost = frozenset([job_id for job_id, token in claimed if not await _owned(tx, job_id, token)])
    kept = [(job_id, chunk) for job_id, _, chunk in done if job_id not in lost]
    if not kept:
        return lost
    await tx.execute(
        "DELETE FROM segments WHERE job_id = :job_id AND chunk_idx = :idx",
        [{"job_id": job_id, "idx": chunk.index} for job_id, chunk in kept],
    )
    await tx.execute(ADD_CHUNK, [_chunk_row(tx, job_id, chunk) for job_id, chunk in kept])
    if segments := [_segment_row(job_id, chunk, s) for job_id, chunk in kept for s in chunk.segments]:
        await tx.execute(ADD_SEGMENT, segments)
    await tx.execute(ADVANCE, [{"job_id": job_id, "end": chunk.end} for job_id, chunk in kept])
    for job_id, chunk in kept:
        tx.tell("chunk.gap" if chunk.gap else "chunk.done", job_id, chunk=chunk.index, start=chunk.start, end=chunk.end)
    return lost


async def _owned(tx: Transaction, job_id: JobId, token: Token) -> bool:
    try:
        await claims.owned(tx, job_id, token)
    except NotYours:
        return False
    return True


def _chunk_row(tx: Transaction, job_id: JobId, chunk: Chunk) -> dict[str, object]:
    return {
        "job_id": job_id,
        "idx": chunk.index,
        "channel": chunk.channel,
        "start": chunk.start,
        "end": chunk.end,
        "status": "gap" if chunk.gap else "done",
        "redone": chunk.redone,
        "compute_s": chunk.compute_s,
        "now": tx.now,
    }


def _segment_row(job_id: JobId, chunk: Chunk, segment: Segment) -> dict[str, object]:
    words = [{"start": w.start, "end": w.end, "text": w.text, "probability": w.probability} for w in segment.words]
    return {
        "job_id": job_id,
        "idx": chunk.index,
        "channel": segment.channel,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "words": json.dumps(words, ensure_ascii=False) if words else None,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


async def transcript(connection: AsyncConnection, job_id: JobId) -> Transcript:
    job = (await connection.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id})).one()
    segments = await connection.execute(
        text("SELECT * FROM segments WHERE job_id = :id ORDER BY start_s, id"), {"id": job_id}
    )
    gaps = await connection.execute(
        text("SELECT start_s, end_s FROM chunks WHERE job_id = :id AND status = 'gap' ORDER BY start_s"), {"id": job_id}
    )
    return Transcript(
        job_id=job.id,
        source=job.path,
        language=job.language,
        model=job.model or "",
        audio_seconds=job.audio_seconds or 0.0,
        segments=tuple(
            Segment(
                start=row.start_s,
                end=row.end_s,
                text=row.text,
                avg_logprob=row.avg_logprob,
                compression_ratio=row.compression_ratio,
                no_speech_prob=row.no_speech_prob,
                channel=row.channel,
                words=tuple(Word(**word) for word in json.loads(row.words or "[]")),
            )
            for row in segments
        ),
        gaps=tuple((gap.start_s, gap.end_s) for gap in gaps),
        warning=job.warning,
        created_at=job.transcribed_at or job.created_at,
    )


async def intend(tx: Transaction, job_id: JobId, token: Token, artifacts: Sequence[Artifact]) -> None:
    """Note names and hashes before any file is written, so that a restart can tell its own files from others'."""
    await claims.owned(tx, job_id, token)
    await tx.execute("DELETE FROM artifacts WHERE job_id = :id", {"id": job_id})
    await tx.execute(
        "INSERT INTO artifacts (job_id, format, outbox, path, sha256, bytes) "
        "VALUES (:id, :format, :outbox, :path, :sha256, :bytes)",
        [
            {"id": job_id, "format": a.format, "outbox": a.outbox, "path": a.path, "sha256": a.sha256, "bytes": a.bytes}
            for a in artifacts
        ],
    )


async def complete(tx: Transaction, job_id: JobId, token: Token) -> None:
    """The job's artifacts are durable. That makes it completed, marked gaps included."""
    await tx.execute("UPDATE artifacts SET written_at = :now WHERE job_id = :id", {"now": tx.now, "id": job_id})
    await claims.complete(tx, job_id, token)


TAKEN = text("SELECT path FROM artifacts WHERE outbox = :outbox AND path IN :paths AND job_id <> :job_id").bindparams(
    bindparam("paths", expanding=True)
)


async def names_taken(
    connection: AsyncConnection, outbox: str, paths: Sequence[str], *, job_id: JobId
) -> frozenset[str]:
    rows = await connection.execute(TAKEN, {"outbox": outbox, "paths": list(paths), "job_id": job_id})
    return frozenset(path for (path,) in rows)
