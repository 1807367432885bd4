"""The publisher's side: the transcript to write, the names it takes, and the end of a job that went well."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, insert, select, update

from speakeasyd.domain.job import EndedJob, JobId, Sighting, Signature, Status, Token
from speakeasyd.domain.naming import build_collision_key
from speakeasyd.domain.transcript import Artifact, OwnFile, Segment, Transcript, Word
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import retries
from speakeasyd.ledger.results import find_gaps
from speakeasyd.ledger.tables import artifacts, chunks, jobs, segments
from speakeasyd.ledger.text_columns import parse_kinds
from speakeasyd.ledger.transitions import end_claim, require_claim, split_into_slices
from speakeasyd.ledger.writer import Transaction

IN_TIME = (segments.c.start_seconds, segments.c.chunk, segments.c.position)


def load_transcript(connection: Connection, job_id: JobId) -> Transcript:
    """What people see of a job: its finished transcript, else what is transcribed so far.

    Raises LedgerError for an unknown job.
    """
    job = _job_columns(connection, job_id) | retries.find_result(connection, job_id)
    return _build_transcript(
        job, _finished_segments(connection, job_id), find_gaps(connection, job_id)
    )


def read_leading_text(connection: Connection, job_id: JobId) -> str:
    """The text from the beginning up to the first chunk that is not there yet: later text is only added to it."""
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


def transcript_to_publish(connection: Connection, job_id: JobId) -> Transcript:
    """What the attempt that is under way has transcribed. Raises LedgerError for an unknown job."""
    work = retries.get_work_table(connection, job_id)
    read = _finished_segments if work is chunks else retries.read_segments
    texts = read(connection, job_id)
    return _build_transcript(
        _job_columns(connection, job_id), texts, find_gaps(connection, job_id, work)
    )


def _job_columns(connection: Connection, job_id: JobId) -> dict[str, Any]:
    job = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if job is None:
        raise LedgerError(f"there is no job {job_id} in the ledger")
    return dict(job._mapping)


def _finished_segments(connection: Connection, job_id: JobId) -> Sequence[Mapping[str, Any]]:
    found = select(segments).where(segments.c.job_id == job_id).order_by(*IN_TIME)
    return [dict(row._mapping) for row in connection.execute(found)]


def _build_transcript(
    job: Mapping[str, Any],
    texts: Iterable[Mapping[str, Any]],
    given_up: tuple[tuple[float, float], ...],
) -> Transcript:
    return Transcript(
        job_id=job["id"],
        source=job["path"].rpartition("/")[2],
        language=job["language"],
        model=job["model"] or job["requested_model"],
        audio_seconds=job["audio_seconds"] or 0.0,
        segments=tuple(_build_segment(row) for row in texts),
        gaps=given_up,
        warning=job["warning"],
        warning_kinds=parse_kinds(job["warning_kinds"]),
        created_at=job["created_at"],
    )


def find_taken_names(
    connection: Connection, outbox: str, paths: Sequence[str], *, job_id: JobId
) -> set[str]:
    """Those of these paths that belong to another file's job, or that some filesystem takes for one that does."""
    keys = {path: build_collision_key(path) for path in paths}
    others = select(artifacts.c.path_key).where(
        artifacts.c.outbox == outbox,
        artifacts.c.path_key.in_(set(keys.values())),
        artifacts.c.job_id.is_(None) | ~_of_same_file(job_id),
    )
    taken = set(connection.scalars(others))
    return {path for path, key in keys.items() if key in taken}


def own_files(connection: Connection, job_id: JobId) -> list[OwnFile]:
    """What the job and those of earlier versions of its source have written, or were about to write."""
    rows = connection.execute(select(artifacts).where(_of_same_file(job_id)))
    return [OwnFile(row.outbox, row.path, _build_hashes(row)) for row in rows]


def _of_same_file(job_id: JobId) -> ColumnElement[bool]:
    """Whether an artifact is the job's own, or that of an earlier version of its source that has ended."""
    mine, earlier = jobs.alias("mine"), jobs.alias("earlier")
    same = (
        (earlier.c.inbox == mine.c.inbox)
        & (earlier.c.path_raw == mine.c.path_raw)
        & (earlier.c.id < mine.c.id)
    )
    ended_before = earlier.c.status.not_in([Status.PENDING, Status.PROCESSING])
    ids = select(earlier.c.id).join(mine, same).where(mine.c.id == job_id, ended_before)
    return (artifacts.c.job_id == job_id) | artifacts.c.job_id.in_(ids)


def _build_hashes(row: Row[Any]) -> frozenset[str]:
    return frozenset({row.sha256, *json.loads(row.replaces_sha256 or "[]")})


def find_ended_jobs(
    connection: Connection, inbox: str, sightings: Sequence[Sighting]
) -> list[EndedJob]:
    """Of these files, those whose job has ended for good: nothing more will be read from them."""
    first, live = jobs.alias("first"), jobs.alias("live")
    done = jobs.c.status.in_([Status.COMPLETED, Status.FAILED]) | (
        first.c.status == Status.COMPLETED
    )
    busy = exists().where(
        live.c.inbox == jobs.c.inbox,
        live.c.path_raw == jobs.c.path_raw,
        live.c.status.in_([Status.PENDING, Status.PROCESSING]),
    )
    columns = select(jobs, first.c.warning_kinds.label("first_warning_kinds"))
    query = columns.outerjoin(first, first.c.id == jobs.c.duplicate_of).where(
        jobs.c.inbox == inbox, done, ~busy
    )
    found: dict[bytes, EndedJob] = {}  # by path, the latest
    for part in split_into_slices(sightings):
        wanted = {(sighting.path, sighting.signature) for sighting in part}
        for row in connection.execute(
            query.where(jobs.c.path_raw.in_([s.path for s in part])).order_by(jobs.c.id)
        ):
            signature = Signature(row.size, row.mtime_ns, row.inode)
            if (row.path_raw, signature) in wanted:
                failure = (row.error_code, row.error) if row.status == Status.FAILED else None
                warnings = parse_kinds(row.warning_kinds) | parse_kinds(row.first_warning_kinds)
                found[row.path_raw] = EndedJob(
                    row.id, row.path_raw, signature, row.sha256, failure, warnings
                )
    return list(found.values())


def reserve_artifacts(
    tx: Transaction, job_id: JobId, token: Token, intended: Sequence[Artifact]
) -> set[str]:
    """Take the names of artifacts before any is written. Returns those that another job has: then none is taken.

    A name may be that of an own file, which is replaced: its hashes are kept until the new file is complete, so that
    what lies there is known for ours whenever a crash comes.
    """
    require_claim(tx, job_id, token)
    taken = {
        path
        for outbox in {artifact.outbox for artifact in intended}
        for path in find_taken_names(
            tx.connection, outbox, [a.path for a in intended if a.outbox == outbox], job_id=job_id
        )
    }
    if not taken:
        own = {(own.outbox, own.path): own.hashes for own in own_files(tx.connection, job_id)}
        for artifact in intended:
            _insert_artifacts(
                tx,
                job_id,
                artifact,
                replaces=own.get((artifact.outbox, artifact.path), frozenset()),
            )
    return taken


def complete_job(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    written: Sequence[Artifact],
    *,
    removed: Sequence[OwnFile] = (),
) -> None:
    """The artifacts are durable: so is now the word of it. `removed`: own files that are no longer in the outbox.

    The text of a retry takes the place of the earlier one.
    """
    require_claim(tx, job_id, token)
    retries.replace_finished(tx, job_id)
    end_claim(
        tx,
        job_id,
        token,
        Status.COMPLETED,
        outcome="completed",
        progress=1.0,
        error_code=None,
        error=None,
    )
    tx.connection.execute(delete(artifacts).where(artifacts.c.job_id == job_id))
    for own in removed:
        tx.connection.execute(
            delete(artifacts).where(
                artifacts.c.outbox == own.outbox,
                artifacts.c.path_key == build_collision_key(own.path),
            )
        )
    for artifact in written:
        _insert_artifacts(tx, job_id, artifact, written_at=tx.now)
    superseded = _supersede_earlier(tx, job_id)
    tx.record_event(
        "job.completed",
        job_id,
        artifacts=[artifact.path for artifact in written],
        supersedes=superseded,
    )


def _supersede_earlier(tx: Transaction, job_id: JobId) -> list[JobId]:
    """Mark the jobs of earlier versions of the same file: this one has taken their place. Returns them."""
    this = select(jobs.c.inbox, jobs.c.path_raw).where(jobs.c.id == job_id)
    inbox, path = tx.connection.execute(this).one()
    earlier = (
        (jobs.c.inbox == inbox)
        & (jobs.c.path_raw == path)
        & (jobs.c.id < job_id)
        & jobs.c.status.not_in([Status.PENDING, Status.PROCESSING])
        & jobs.c.superseded_by.is_(None)
    )
    found = [JobId(number) for number in tx.connection.scalars(select(jobs.c.id).where(earlier))]
    if found:
        tx.connection.execute(update(jobs).where(earlier).values(superseded_by=job_id))
    return found


def _insert_artifacts(
    tx: Transaction,
    job_id: JobId,
    artifact: Artifact,
    *,
    written_at: str | None = None,
    replaces: frozenset[str] = frozenset(),
) -> None:
    """In place of what the ledger knows of that name."""
    key = build_collision_key(artifact.path)
    others = sorted(replaces - {artifact.sha256})
    tx.connection.execute(
        delete(artifacts).where(artifacts.c.outbox == artifact.outbox, artifacts.c.path_key == key)
    )
    tx.connection.execute(
        insert(artifacts).values(
            job_id=job_id,
            format=artifact.format,
            outbox=artifact.outbox,
            path=artifact.path,
            path_key=key,
            sha256=artifact.sha256,
            bytes=artifact.bytes,
            written_at=written_at,
            replaces_sha256=json.dumps(others) if others else None,
        )
    )


def _build_segment(row: Mapping[str, Any]) -> Segment:
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
    )
