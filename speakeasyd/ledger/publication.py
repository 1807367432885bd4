"""The ledger's part of a publication: the transcript, the reserved names, the completed job."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    String,
    bindparam,
    delete,
    exists,
    insert,
    select,
    update,
)

from speakeasyd.domain.diarization import LocalKey, SpeakerTurn, join_turns
from speakeasyd.domain.event_payloads import JobCompleted
from speakeasyd.domain.job import (
    AttemptOutcome,
    EndedJob,
    JobId,
    Sighting,
    Signature,
    Status,
    Token,
)
from speakeasyd.domain.naming import build_collision_key
from speakeasyd.domain.transcript import (
    Artifact,
    OwnFile,
    Segment,
    TranscribedTrack,
    Transcript,
    Word,
)
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import retries
from speakeasyd.ledger.results import find_gaps
from speakeasyd.ledger.tables import artifacts, chunks, jobs, segments
from speakeasyd.ledger.text_columns import parse_kinds, parse_speakers
from speakeasyd.ledger.transitions import end_claim, require_claim, split_into_slices
from speakeasyd.ledger.writer import Transaction

IN_TIME = (segments.c.start_seconds, segments.c.chunk, segments.c.position)
# Once: an alias of a table with many columns, or a query, takes longer to build than to run
_JOB = select(jobs).where(jobs.c.id == bindparam("job"))
_SEGMENTS = select(segments).where(segments.c.job_id == bindparam("job")).order_by(*IN_TIME)
_DELETE_RESERVED = delete(artifacts).where(artifacts.c.job_id == bindparam("job"))
_DELETE_NAME = delete(artifacts).where(
    artifacts.c.outbox == bindparam("of_outbox"), artifacts.c.path_key == bindparam("key")
)
_PUT_ARTIFACT = insert(artifacts).prefix_with("OR REPLACE")
_first, _live = jobs.alias("first"), jobs.alias("live")

_mine, _earlier = jobs.alias("mine"), jobs.alias("earlier")
_job_id = bindparam("job", type_=Integer)
_EARLIER_VERSIONS = (
    select(_earlier.c.id)
    .join(
        _mine,
        (_earlier.c.inbox == _mine.c.inbox)
        & (_earlier.c.path_raw == _mine.c.path_raw)
        & (_earlier.c.id < _mine.c.id),
    )
    .where(_mine.c.id == _job_id, _earlier.c.status.not_in([Status.PENDING, Status.PROCESSING]))
)
"""The ended jobs of earlier versions of the file of the job `job`."""
_SUPERSEDED = _EARLIER_VERSIONS.where(_earlier.c.superseded_by.is_(None))
_of_same_file = (artifacts.c.job_id == _job_id) | artifacts.c.job_id.in_(_EARLIER_VERSIONS)
_OWN_FILES = select(artifacts).where(_of_same_file)
_TAKEN_NAMES = select(artifacts.c.path_key).where(
    artifacts.c.outbox == bindparam("outbox", type_=String),
    artifacts.c.path_key.in_(bindparam("keys", type_=String, expanding=True)),
    artifacts.c.job_id.is_(None) | ~_of_same_file,
)


def load_transcript(connection: Connection, job_id: JobId) -> Transcript:
    """Return the transcript that readers see: the finished one, else what is transcribed so far.

    Raises LedgerError for an unknown job.
    """
    job = _job_columns(connection, job_id) | retries.find_result(connection, job_id)
    return _build_transcript(
        job,
        _stream_segments(connection, job_id),
        find_gaps(connection, job_id),
        _finished_chunks(connection, job_id) if job["speakers"] else (),
    )


def find_transcript(connection: Connection, job_id: JobId) -> tuple[str, Transcript] | None:
    """Return the path of a job's source and its transcript; None for an unknown job."""
    path = connection.scalar(select(jobs.c.path).where(jobs.c.id == job_id))
    return None if path is None else (path, load_transcript(connection, job_id))


def read_leading_text(connection: Connection, job_id: JobId) -> str:
    """Return the text up to the first missing chunk: later calls only append to it."""
    indexes = select(chunks.c.number).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    leading = 0
    for index in connection.execute(indexes).scalars():
        if index != leading:
            break
        leading += 1
    texts = select(segments.c.text).where(segments.c.job_id == job_id, segments.c.chunk < leading)
    return "".join(
        connection.execute(texts.order_by(segments.c.chunk, segments.c.position)).scalars()
    ).strip()


def load_publication(connection: Connection, job_id: JobId) -> tuple[Transcript, list[OwnFile]]:
    """Return what `transcript_to_publish` and `own_files` return."""
    return transcript_to_publish(connection, job_id), own_files(connection, job_id)


def transcript_to_publish(connection: Connection, job_id: JobId) -> Transcript:
    """Return the transcript of the current attempt. Raises LedgerError for an unknown job."""
    work = retries.get_work_table(connection, job_id)
    read = _stream_segments if work is chunks else retries.read_segments
    job = _job_columns(connection, job_id)
    return _build_transcript(
        job,
        read(connection, job_id),
        find_gaps(connection, job_id, work),
        retries.read_work_chunks(connection, job_id) if job["speakers"] else (),
    )


def _job_columns(connection: Connection, job_id: JobId) -> dict[str, Any]:
    job = connection.execute(_JOB, {"job": job_id}).one_or_none()
    if job is None:
        raise LedgerError(
            f"there is no job {job_id} in the ledger", hint="`speakeasyd jobs` lists the jobs."
        )
    return dict(job._mapping)


def _stream_segments(connection: Connection, job_id: JobId) -> Iterator[Mapping[str, Any]]:
    """Yield the finished segments, as rows."""
    with connection.execute(_SEGMENTS, {"job": job_id}) as rows:
        for row in rows.mappings():
            yield dict(row)


def _finished_chunks(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    query = select(chunks).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    return [dict(row) for row in connection.execute(query).mappings()]


def _build_transcript(
    job: Mapping[str, Any],
    texts: Iterable[Mapping[str, Any]],
    gaps: tuple[tuple[float, float], ...],
    chunk_rows: Iterable[Mapping[str, Any]],
) -> Transcript:
    numbers, turns = _read_speakers(chunk_rows)
    return Transcript(
        job_id=job["id"],
        source=job["path"].rpartition("/")[2],
        language=job["language"],
        model=job["model"] or job["requested_model"],
        audio_seconds=job["audio_seconds"] or 0.0,
        segments=tuple(_build_segment(row, numbers) for row in texts),
        gaps=gaps,
        warning=job["warning"],
        warning_kinds=parse_kinds(job["warning_kinds"]),
        created_at=job["created_at"],
        tracks=tuple(TranscribedTrack(**one) for one in json.loads(job["tracks"] or "[]")),
        speakers=parse_speakers(job["speakers"]),
        turns=tuple(turns),
    )


def _read_speakers(
    chunk_rows: Iterable[Mapping[str, Any]],
) -> tuple[dict[LocalKey, int], list[SpeakerTurn]]:
    """Return the number of each local speaker, and the turns of the file."""
    numbers: dict[LocalKey, int] = {}
    turns: list[SpeakerTurn] = []
    for row in chunk_rows:
        of_chunk = json.loads(row["speaker_numbers"] or "[]")
        numbers |= {LocalKey(row["number"], local): n for local, n in enumerate(of_chunk) if n}
        found = json.loads(row["speakers"] or '{"turns": []}')
        for start, end, local, overlap in found["turns"]:
            if number := numbers.get(LocalKey(row["number"], local)):
                turns.append(SpeakerTurn(start, end, number, overlap=overlap, track=row["track"]))
    return numbers, join_turns(turns)


def find_taken_names(
    connection: Connection, outbox: str, paths: Sequence[str], *, job_id: JobId
) -> set[str]:
    """Return the paths that collide with an artifact of another file's job.

    Two paths collide if any filesystem may treat them as one.
    """
    keys = {path: build_collision_key(path) for path in paths}
    values = {"job": job_id, "outbox": outbox, "keys": list(keys.values())}
    taken_keys = set(connection.scalars(_TAKEN_NAMES, values))
    return {path for path, key in keys.items() if key in taken_keys}


def own_files(connection: Connection, job_id: JobId) -> list[OwnFile]:
    """Return the files that this job and earlier versions of its source wrote or reserved."""
    rows = connection.execute(_OWN_FILES, {"job": job_id})
    return [OwnFile(row.outbox, row.path, _build_hashes(row)) for row in rows]


def _build_hashes(row: Row[Any]) -> frozenset[str]:
    return frozenset({row.sha256, *json.loads(row.replaces_sha256 or "[]")})


def find_ended_jobs(
    connection: Connection, inbox: str, sightings: Sequence[Sighting]
) -> list[EndedJob]:
    """Return the ended jobs of these files that will not be read again."""
    done = jobs.c.status.in_([Status.COMPLETED, Status.FAILED]) | (
        _first.c.status == Status.COMPLETED
    )
    busy = exists().where(
        _live.c.inbox == jobs.c.inbox,
        _live.c.path_raw == jobs.c.path_raw,
        _live.c.status.in_([Status.PENDING, Status.PROCESSING]),
    )
    columns = select(jobs, _first.c.warning_kinds.label("first_warning_kinds"))
    query = columns.outerjoin(_first, _first.c.id == jobs.c.duplicate_of).where(
        jobs.c.inbox == inbox, done, ~busy
    )
    latest: dict[bytes, EndedJob] = {}  # by path
    for part in split_into_slices(sightings):
        wanted = {(sighting.path, sighting.signature) for sighting in part}
        for row in connection.execute(
            query.where(jobs.c.path_raw.in_([s.path for s in part])).order_by(jobs.c.id)
        ):
            signature = Signature(row.size, row.mtime_ns, row.inode)
            if (row.path_raw, signature) in wanted:
                failure = (row.error_code, row.error) if row.status == Status.FAILED else None
                warnings = parse_kinds(row.warning_kinds) | parse_kinds(row.first_warning_kinds)
                latest[row.path_raw] = EndedJob(
                    row.id, row.path_raw, signature, row.sha256, failure, warnings
                )
    return list(latest.values())


def reserve_artifacts(
    tx: Transaction, job_id: JobId, token: Token, intended: Sequence[Artifact]
) -> set[str]:
    """Reserve the names of artifacts before any file is written. Raises ClaimLost.

    Returns the names that another job has; if there are any, none is reserved. A name may be that
    of the job's own earlier file, which will be replaced. Its hashes are kept until the new file is
    complete, so that the file is recognised as ours after a crash at any time.
    """
    require_claim(tx, job_id, token)
    collisions = {
        path
        for outbox in {artifact.outbox for artifact in intended}
        for path in find_taken_names(
            tx.connection, outbox, [a.path for a in intended if a.outbox == outbox], job_id=job_id
        )
    }
    if not collisions:
        own = {(own.outbox, own.path): own.hashes for own in own_files(tx.connection, job_id)}
        _put_artifacts(
            tx,
            [
                _build_artifact_row(job_id, file, replaces=own.get((file.outbox, file.path)))
                for file in intended
            ],
        )
    return collisions


def complete_job(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    written: Sequence[Artifact],
    *,
    removed: Sequence[OwnFile] = (),
) -> None:
    """Complete a job whose artifacts are durable. Raises ClaimLost.

    `removed`: own files that are no longer in the outbox. The text of a retry replaces the earlier
    text.
    """
    end_claim(
        tx,
        job_id,
        token,
        Status.COMPLETED,
        outcome=AttemptOutcome.COMPLETED,
        progress=1.0,
        error_code=None,
        error=None,
    )
    retries.replace_finished(tx, job_id)
    tx.connection.execute(_DELETE_RESERVED, {"job": job_id})
    for own in removed:
        values = {"of_outbox": own.outbox, "key": build_collision_key(own.path)}
        tx.connection.execute(_DELETE_NAME, values)
    _put_artifacts(tx, [_build_artifact_row(job_id, file, written_at=tx.now) for file in written])
    superseded = _supersede_earlier(tx, job_id)
    completed = JobCompleted(
        artifacts=[artifact.path for artifact in written], supersedes=list[int](superseded)
    )
    tx.record_event(completed, job_id)


def _supersede_earlier(tx: Transaction, job_id: JobId) -> list[JobId]:
    """Mark the jobs of earlier versions of the same file as superseded. Returns them."""
    superseded = [JobId(id_) for id_ in tx.connection.scalars(_SUPERSEDED, {"job": job_id})]
    for part in split_into_slices(superseded):
        tx.connection.execute(update(jobs).where(jobs.c.id.in_(part)).values(superseded_by=job_id))
    return superseded


def _put_artifacts(tx: Transaction, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert artifacts; each replaces the row of the same name."""
    if rows:
        tx.connection.execute(_PUT_ARTIFACT, rows)


def _build_artifact_row(
    job_id: JobId,
    artifact: Artifact,
    *,
    written_at: str | None = None,
    replaces: frozenset[str] | None = None,
) -> dict[str, object]:
    """`replaces`: hashes of our own earlier file of this name."""
    others = sorted((replaces or frozenset()) - {artifact.sha256})
    return {
        "job_id": job_id,
        "format": artifact.format,
        "outbox": artifact.outbox,
        "path": artifact.path,
        "path_key": build_collision_key(artifact.path),
        "sha256": artifact.sha256,
        "bytes": artifact.bytes,
        "written_at": written_at,
        "replaces_sha256": json.dumps(others) if others else None,
    }


def _build_segment(row: Mapping[str, Any], numbers: Mapping[LocalKey, int]) -> Segment:
    local = row["local_speaker"]
    return Segment(
        start=row["start_seconds"],
        end=row["end_seconds"],
        text=row["text"],
        avg_logprob=row["avg_logprob"],
        compression_ratio=row["compression_ratio"],
        no_speech_prob=row["no_speech_prob"],
        channel=row["channel"],
        words=tuple(Word(**word) for word in json.loads(row["words"] or "[]")),
        language=row["language"],
        track=row["track"],
        confidence=row["confidence"],
        speaker=None if local is None else numbers.get(LocalKey(row["chunk"], local)),
        local_speaker=local,
    )
