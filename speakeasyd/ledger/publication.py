"""The ledger's part of a publication: the transcript, the reserved names, the completed job."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
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
from speakeasyd.ledger.results import find_gaps, find_work_gaps
from speakeasyd.ledger.tables import artifacts, chunks, jobs, segments
from speakeasyd.ledger.text_columns import parse_kinds, parse_speakers, replace_surrogates
from speakeasyd.ledger.transitions import end_claims, require_claims, split_into_slices
from speakeasyd.ledger.writer import Transaction

IN_TIME = (segments.c.start_seconds, segments.c.chunk, segments.c.position)
_job_ids: BindParameter[Any] = bindparam("job_ids", expanding=True)
# Once: an alias of a table with many columns, or a query, takes longer to build than to run
_JOBS = select(jobs).where(jobs.c.id.in_(_job_ids))
_SEGMENTS = (
    select(segments).where(segments.c.job_id.in_(_job_ids)).order_by(segments.c.job_id, *IN_TIME)
)
_DELETE_RESERVED = delete(artifacts).where(artifacts.c.job_id == bindparam("job"))
_DELETE_NAME = delete(artifacts).where(
    artifacts.c.outbox == bindparam("of_outbox"), artifacts.c.path_key == bindparam("key")
)
_PUT_ARTIFACT = insert(artifacts).prefix_with("OR REPLACE")
_first, _live = jobs.alias("first"), jobs.alias("live")

_mine, _version = jobs.alias("mine"), jobs.alias("version")
_same_file = _mine.join(
    _version,
    (_version.c.inbox == _mine.c.inbox)
    & (_version.c.path_raw == _mine.c.path_raw)
    & (_version.c.id <= _mine.c.id),
)
_of_jobs = _mine.c.id.in_(_job_ids) & (
    (_version.c.id == _mine.c.id) | _version.c.status.not_in([Status.PENDING, Status.PROCESSING])
)
_VERSIONS = select(_mine.c.id.label("owner"), _version.c.id).select_from(_same_file).where(_of_jobs)
"""Each of these jobs, and the ended jobs of earlier versions of its file."""
_AMONG = _VERSIONS.where(_version.c.id.in_(bindparam("among", expanding=True)))
_CURRENT = _VERSIONS.where(_version.c.id != _mine.c.id, _version.c.superseded_by.is_(None))
_OWN_FILES = (
    select(_mine.c.id.label("owner"), artifacts)
    .select_from(_same_file.join(artifacts, artifacts.c.job_id == _version.c.id))
    .where(_of_jobs)
)
# Of pairs, SQLite would look through the whole table
_HOLDERS = select(artifacts.c.outbox, artifacts.c.path_key, artifacts.c.job_id).where(
    artifacts.c.outbox.in_(bindparam("outboxes", expanding=True)),
    artifacts.c.path_key.in_(bindparam("keys", expanding=True)),
)
_SUPERSEDE = (
    update(jobs).where(jobs.c.id == bindparam("earlier")).values(superseded_by=bindparam("later"))
)


_Name = tuple[str, str]
"""An outbox, and what is equal for two paths that any filesystem may treat as one."""


@dataclass(frozen=True, slots=True)
class JobArtifacts:
    """The artifacts of a claimed job, and own files that are no longer in the outbox."""

    job_id: JobId
    token: Token
    artifacts: Sequence[Artifact]
    removed: Sequence[OwnFile] = ()

    @property
    def claim(self) -> tuple[JobId, Token]:
        return self.job_id, self.token


def load_transcript(connection: Connection, job_id: JobId) -> Transcript:
    """Return the transcript that readers see: the finished one, else what is transcribed so far.

    Raises LedgerError for an unknown job.
    """
    [job] = _load_job_columns(connection, [job_id])
    job |= retries.find_result(connection, job_id)
    numbers, turns = _read_speakers(_finished_chunks(connection, job_id) if job["speakers"] else ())
    rows = _stream_segments(connection, [job_id])
    texts = tuple(_build_segment(row, numbers) for row in rows)
    return _build_transcript(job, texts, find_gaps(connection, [job_id])[job_id], turns)


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


def load_publications(
    connection: Connection, job_ids: Sequence[JobId]
) -> list[tuple[Transcript, list[OwnFile]]]:
    """Return the transcript of the current attempt of each of these jobs, and its own files.

    Own files are those that this job and earlier versions of its source wrote or reserved. Raises
    LedgerError for an unknown job.
    """
    retried = retries.find_retried(connection, job_ids)
    gaps = find_work_gaps(connection, job_ids, retried)
    own = _find_own_files(connection, job_ids)
    found = _load_job_columns(connection, job_ids)
    speakers = {
        job["id"]: _read_speakers(retries.read_work_chunks(connection, job["id"]))
        for job in found
        if job["speakers"]
    }
    texts = {
        job_id: tuple(_build_segment(row, speakers.get(job_id, _NO_SPEAKERS)[0]) for row in rows)
        for job_id, rows in _stream_work_segments(connection, job_ids, retried)
    }
    return [
        (
            _build_transcript(
                job, texts.get(job_id, ()), gaps[job_id], speakers.get(job_id, _NO_SPEAKERS)[1]
            ),
            own[job_id],
        )
        for job_id, job in zip(job_ids, found, strict=True)
    ]


def _load_job_columns(connection: Connection, job_ids: Sequence[JobId]) -> list[dict[str, Any]]:
    """Return the row of each job, in the given order. Raises LedgerError for an unknown job."""
    rows = {row.id: row for row in connection.execute(_JOBS, {"job_ids": list(job_ids)})}
    for job_id in job_ids:
        if job_id not in rows:
            raise LedgerError(
                f"there is no job {job_id} in the ledger", hint="`speakeasyd jobs` lists the jobs."
            )
    return [dict(rows[job_id]._mapping) for job_id in job_ids]


def _stream_segments(
    connection: Connection, job_ids: Collection[JobId]
) -> Iterator[Mapping[str, Any]]:
    """Yield the finished segments, as rows, by job and time."""
    with connection.execute(_SEGMENTS, {"job_ids": list(job_ids)}) as rows:
        for row in rows.mappings():
            yield dict(row)


def _stream_work_segments(
    connection: Connection, job_ids: Collection[JobId], retried: set[JobId]
) -> Iterator[tuple[JobId, Iterable[Mapping[str, Any]]]]:
    """Yield the segments of the current attempt of each job that has some, as rows, by time."""
    first = _stream_segments(connection, set(job_ids) - retried)
    yield from groupby(first, key=itemgetter("job_id"))
    for job_id in retried:
        yield job_id, retries.read_segments(connection, job_id)


def _finished_chunks(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    query = select(chunks).where(chunks.c.job_id == job_id).order_by(chunks.c.number)
    return [dict(row) for row in connection.execute(query).mappings()]


def _build_transcript(
    job: Mapping[str, Any],
    texts: tuple[Segment, ...],
    gaps: Iterable[tuple[float, float]],
    turns: Iterable[SpeakerTurn],
) -> Transcript:
    return Transcript(
        job_id=job["id"],
        source=job["path"].rpartition("/")[2],
        language=job["language"],
        model=job["model"] or job["requested_model"],
        audio_seconds=job["audio_seconds"] or 0.0,
        segments=texts,
        gaps=tuple(gaps),
        warning=job["warning"],
        warning_kinds=parse_kinds(job["warning_kinds"]),
        created_at=job["created_at"],
        tracks=tuple(TranscribedTrack(**one) for one in json.loads(job["tracks"] or "[]")),
        speakers=parse_speakers(job["speakers"]),
        turns=tuple(turns),
    )


_Speakers = tuple[dict[LocalKey, int], list[SpeakerTurn]]
_NO_SPEAKERS: _Speakers = ({}, [])


def _read_speakers(chunk_rows: Iterable[Mapping[str, Any]]) -> _Speakers:
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
    names = {path: _build_name(outbox, path) for path in paths}
    taken = _find_taken(connection, {job_id: list(names.values())})[job_id]
    return {path for path, name in names.items() if name in taken}


def _build_name(outbox: str, path: str) -> _Name:
    return replace_surrogates(outbox), build_collision_key(path)


def _find_taken(
    connection: Connection, wanted: Mapping[JobId, Collection[_Name]]
) -> dict[JobId, set[_Name]]:
    """Return those of the names that each job wants that the job of another file has.

    The names of a deleted job remain taken. Of jobs that want the same name, the first gets it.
    """
    holders = _find_holders(connection, set(chain(*wanted.values())))
    others = {holder for holder in holders.values() if holder not in (None, *wanted)}
    versions = {(job_id, job_id) for job_id in wanted}
    if others:
        values = {"job_ids": list(wanted), "among": list(others)}
        versions |= {(row.owner, row.id) for row in connection.execute(_AMONG, values)}
    taken: dict[JobId, set[_Name]] = {}
    for job_id, names in wanted.items():
        taken[job_id] = {
            name for name in names if (job_id, holders.get(name, job_id)) not in versions
        }
        if not taken[job_id]:
            holders |= dict.fromkeys(names, job_id)
    return taken


def _find_holders(connection: Connection, names: Collection[_Name]) -> dict[_Name, JobId | None]:
    """Return the job of each name that has one; None if that job was deleted."""
    outboxes, keys = map(list, map(set, zip(*names, strict=True))) if names else ([], [])
    rows = connection.execute(_HOLDERS, {"outboxes": outboxes, "keys": keys})
    return {(row.outbox, row.path_key): row.job_id for row in rows}


def _find_own_files(
    connection: Connection, job_ids: Collection[JobId]
) -> dict[JobId, list[OwnFile]]:
    """Return the files that each job and earlier versions of its source wrote or reserved."""
    files: dict[JobId, list[OwnFile]] = {job_id: [] for job_id in job_ids}
    for row in connection.execute(_OWN_FILES, {"job_ids": list(job_ids)}):
        files[row.owner].append(OwnFile(row.outbox, row.path, _build_hashes(row)))
    return files


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


def reserve_artifacts(tx: Transaction, intended: Sequence[JobArtifacts]) -> frozenset[JobId]:
    """Reserve the names of artifacts before any file is written. Raises ClaimLost.

    Returns the jobs of which another job has a name; nothing is reserved for them. A name may be
    that of the job's own earlier file, which will be replaced. Its hashes are kept until the new
    file is complete, so that the file is recognised as ours after a crash at any time.
    """
    require_claims(tx, [one.claim for one in intended])
    own = _find_own_files(tx.connection, [one.job_id for one in intended])
    wanted = {
        one.job_id: [_build_name(file.outbox, file.path) for file in one.artifacts]
        for one in intended
    }
    taken = _find_taken(tx.connection, wanted)
    rows: list[dict[str, object]] = []
    for one in intended:
        if not taken[one.job_id]:
            earlier = {(file.outbox, file.path): file.hashes for file in own[one.job_id]}
            rows += [
                _build_artifact_row(
                    one.job_id, file, replaces=earlier.get((file.outbox, file.path))
                )
                for file in one.artifacts
            ]
    _put_artifacts(tx, rows)
    return frozenset(job_id for job_id, names in taken.items() if names)


def complete_jobs(tx: Transaction, written: Sequence[JobArtifacts]) -> None:
    """Complete jobs whose artifacts are durable. Raises ClaimLost.

    The text of a retry replaces the earlier text.
    """
    job_ids = [one.job_id for one in written]
    end_claims(
        tx,
        [one.claim for one in written],
        Status.COMPLETED,
        outcome=AttemptOutcome.COMPLETED,
        progress=1.0,
        error_code=None,
        error=None,
    )
    retries.replace_finished(tx, job_ids)
    tx.connection.execute(_DELETE_RESERVED, [{"job": job_id} for job_id in job_ids])
    if removed := [
        dict(zip(("of_outbox", "key"), _build_name(own.outbox, own.path), strict=True))
        for one in written
        for own in one.removed
    ]:
        tx.connection.execute(_DELETE_NAME, removed)
    _put_artifacts(
        tx,
        [
            _build_artifact_row(one.job_id, file, written_at=tx.now)
            for one in written
            for file in one.artifacts
        ],
    )
    superseded = _supersede_earlier(tx, job_ids)
    for one in written:
        completed = JobCompleted(
            artifacts=[artifact.path for artifact in one.artifacts],
            supersedes=superseded[one.job_id],
        )
        tx.record_event(completed, one.job_id)


def _supersede_earlier(tx: Transaction, job_ids: Sequence[JobId]) -> dict[JobId, list[int]]:
    """Mark the jobs of earlier versions of the same files as superseded. Returns them by job."""
    superseded: dict[JobId, list[int]] = {job_id: [] for job_id in job_ids}
    rows = tx.connection.execute(_CURRENT, {"job_ids": list(job_ids)}).all()
    for row in rows:
        superseded[row.owner].append(row.id)
    if rows:
        tx.connection.execute(_SUPERSEDE, [{"earlier": row.id, "later": row.owner} for row in rows])
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
