"""Results of workers: notes, committed chunks, completed transcriptions, and strikes."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Table, bindparam, case, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.domain.event_payloads import ChunkDone, ChunkStruck, JobNoted, JobTranscribed
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
from speakeasyd.ledger.transitions import require_claims
from speakeasyd.ledger.writer import Transaction

ALMOST = 0.99  # highest progress while more chunks may come

# Once: a statement takes longer to build than to run
_CLAIMED = select(
    jobs.c.id,
    jobs.c.claim_token,
    jobs.c.container_seconds,
    jobs.c.progress,
    jobs.c.language,
).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)), jobs.c.status == Status.PROCESSING)
_NOTED = ("language", "language_probability", "model", "device", "container_seconds")
_NOTE = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("job"),
        jobs.c.claim_token == bindparam("token"),
        jobs.c.status == Status.PROCESSING,
    )
    .values(
        {
            name: func.coalesce(bindparam(f"new_{name}", type_=jobs.c[name].type), jobs.c[name])
            for name in _NOTED
        }
    )
)
# Of pairs, SQLite would look through the whole table
_KEPT = {
    table: select(table.c.job_id, table.c.number).where(
        table.c.job_id.in_(bindparam("job_ids", expanding=True)),
        table.c.number.in_(bindparam("numbers", expanding=True)),
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


@dataclass(frozen=True, slots=True)
class Transcribed:
    """All chunks of a job have been reported."""

    audio_seconds: float
    warnings: Sequence[MediaWarning] = ()
    tracks: Sequence[TranscribedTrack] = ()


WorkerResult = JobNoted | Chunk | Transcribed
"""What a worker reports of a job: facts about the file, the text of a chunk, the end."""


def store_results(
    tx: Transaction, results: Sequence[tuple[JobId, Token, WorkerResult]]
) -> frozenset[JobId]:
    """Store results: first the notes, then the chunks, then the ends, of all jobs together.

    Idempotent: a chunk that is committed already stays as it is. Returns the jobs whose claim is
    lost; nothing of theirs is stored.
    """
    _execute_notes(tx, results)
    held = _find_claimed(tx.connection, {job_id for job_id, _, _ in results})
    done: list[tuple[JobId, Chunk]] = []
    ended: dict[JobId, Transcribed] = {}
    for job_id, token, result in results:
        if not _is_owned(held, job_id, token):
            continue
        match result:
            case JobNoted():
                if result.to_data():
                    tx.publish_event(result, job_id)
            case Chunk():
                done.append((job_id, result))
            case Transcribed():
                ended.setdefault(job_id, result)  # of an end that is reported twice, the first
            case _:
                raise TypeError(f"not a result: {result!r}")
    if done or ended:
        retried = retries.find_retried(tx.connection, held)
        _store_chunks(tx, done, held, retried)
        _mark_transcribed(tx, ended, held, retried)
    return frozenset(job_id for job_id, token, _ in results if not _is_owned(held, job_id, token))


def _is_owned(held: Mapping[JobId, Any], job_id: JobId, token: Token) -> bool:
    return job_id in held and held[job_id].claim_token == token


def _execute_notes(tx: Transaction, results: Sequence[tuple[JobId, Token, WorkerResult]]) -> None:
    """Store what was noted, where the claim is not lost; None leaves a value unchanged."""
    notes = [
        {
            "job": job_id,
            "token": token,
            **{f"new_{name}": getattr(noted, name) for name in _NOTED},
        }
        for job_id, token, noted in results
        if isinstance(noted, JobNoted)
    ]
    if notes:
        tx.connection.execute(_NOTE, notes)


def _store_chunks(
    tx: Transaction,
    done: Sequence[tuple[JobId, Chunk]],
    held: Mapping[JobId, Any],
    retried: set[JobId],
) -> None:
    if fresh := _select_new_chunks(tx.connection, done, retried):
        _insert_chunks(tx, fresh, retried)
        tx.connection.execute(_ADVANCE, _compute_progress(tx, fresh, held))


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
    require_claims(tx, [(job_id, token)])
    first = upsert(strikes).values(
        job_id=job_id, chunk=chunk, start_seconds=start, end_seconds=end, strikes=1
    )
    tx.connection.execute(first.on_conflict_do_update(set_={"strikes": strikes.c.strikes + 1}))
    so_far = select(strikes.c.strikes).where(strikes.c.job_id == job_id, strikes.c.chunk == chunk)
    count: int = tx.connection.execute(so_far).scalar_one()
    tx.record_event(ChunkStruck(chunk=chunk, strikes=count), job_id)
    return count


_GIVEN_UP = {
    table: select(table.c.job_id, table.c.start_seconds, table.c.end_seconds)
    .where(table.c.job_id.in_(bindparam("job_ids", expanding=True)), table.c.gap)
    .order_by(table.c.start_seconds)
    for table in (chunks, retry_chunks)
}
# A language that is not the detected one has no probability
_FINISH = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        transcribed=True,
        progress=1.0,
        audio_seconds=bindparam("seconds"),
        warning=bindparam("text"),
        warning_kinds=bindparam("kinds"),
        tracks=bindparam("of_tracks"),
        language=bindparam("main"),
        language_probability=case(
            (jobs.c.language.is_not_distinct_from(bindparam("main")), jobs.c.language_probability)
        ),
    )
)

Gaps = list[tuple[float, float]]
"""Start and end in seconds of each chunk that was given up."""


def _mark_transcribed(
    tx: Transaction,
    ended: Mapping[JobId, Transcribed],
    held: Mapping[JobId, Any],
    retried: set[JobId],
) -> None:
    """Record that all chunks of these jobs are committed. Gaps are added to the warnings."""
    if not ended:
        return
    gaps = find_work_gaps(tx.connection, ended, retried)
    spoken = retries.read_spoken_languages(tx.connection, ended, retried)
    rows = []
    for job_id, end in ended.items():
        warnings = [*end.warnings, *_describe_gaps(gaps[job_id])]
        kinds = sorted({warning.kind for warning in warnings})
        text = join_texts(warnings)
        rows.append(
            {
                "job": job_id,
                "seconds": end.audio_seconds,
                "text": text,
                "kinds": encode_json(kinds) if kinds else None,
                "of_tracks": encode_json([asdict(one) for one in end.tracks])
                if end.tracks
                else None,
                "main": choose_main_language(spoken[job_id], held[job_id].language),
            }
        )
        transcribed = JobTranscribed(
            audio_seconds=end.audio_seconds, warning=text, warning_kinds=kinds
        )
        tx.record_event(transcribed, job_id)
    tx.connection.execute(_FINISH, rows)


def _describe_gaps(gaps: Gaps) -> list[MediaWarning]:
    missing = ", ".join(f"{start:.1f} s to {end:.1f} s" for start, end in gaps)
    return [MediaWarning(WarningKind.LEFT_OUT, f"not transcribed: {missing}")] if missing else []


def find_gaps(
    connection: Connection, job_ids: Collection[JobId], table: Table = chunks
) -> defaultdict[JobId, Gaps]:
    """Return the gaps of each job in the finished text, or in that of a retry."""
    gaps = defaultdict[JobId, Gaps](list)
    for row in connection.execute(_GIVEN_UP[table], {"job_ids": list(job_ids)}):
        gaps[row.job_id].append((row.start_seconds, row.end_seconds))
    return gaps


def find_work_gaps(
    connection: Connection, job_ids: Collection[JobId], retried: set[JobId]
) -> defaultdict[JobId, Gaps]:
    """Return the gaps of each job in the text of its current attempt. `retried`: see `find_retried`."""
    gaps = find_gaps(connection, set(job_ids) - retried)
    return gaps | find_gaps(connection, retried, retry_chunks) if retried else gaps


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
            job_ids, numbers = map(list, map(set, zip(*keys, strict=True)))
            rows = connection.execute(_KEPT[table], {"job_ids": job_ids, "numbers": numbers})
            kept |= {(row.job_id, row.number) for row in rows}
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
