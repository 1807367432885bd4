"""The publisher's side: the transcript to write, the names it takes, and the end of a job that went well."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select

from speakeasyd.domain.job import Ended, JobId, Sighting, Signature, Status, Token
from speakeasyd.domain.naming import collision_key
from speakeasyd.domain.transcript import Artifact, Segment, Transcript, WarningKind, Word
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.delivery import gaps
from speakeasyd.ledger.tables import artifacts, jobs, segments
from speakeasyd.ledger.transitions import leave, prove, slices
from speakeasyd.ledger.writer import Transaction

IN_TIME = (segments.c.start_seconds, segments.c.chunk, segments.c.position)


def transcript(connection: Connection, job_id: JobId) -> Transcript:
    """What is transcribed of a job so far. Raises LedgerError for an unknown job."""
    job = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if job is None:
        raise LedgerError(f"there is no job {job_id} in the ledger")
    texts = connection.execute(select(segments).where(segments.c.job_id == job_id).order_by(*IN_TIME))
    return Transcript(
        job_id=job_id,
        source=job.path.rpartition("/")[2],
        language=job.language,
        model=job.model or job.requested_model,
        audio_seconds=job.audio_seconds or 0.0,
        segments=tuple(_segment(row) for row in texts),
        gaps=gaps(connection, job_id),
        warning=job.warning,
        warning_kinds=_kinds(job.warning_kinds),
        created_at=job.created_at,
    )


def names_taken(connection: Connection, outbox: str, paths: Sequence[str], *, job_id: JobId) -> set[str]:
    """Those of these paths that belong to another job, or that some filesystem would take for one that does."""
    keys = {path: collision_key(path) for path in paths}
    others = select(artifacts.c.path_key).where(
        artifacts.c.outbox == outbox,
        artifacts.c.path_key.in_(set(keys.values())),
        artifacts.c.job_id.is_distinct_from(job_id),
    )
    taken = set(connection.scalars(others))
    return {path for path, key in keys.items() if key in taken}


def artifacts_of(connection: Connection, job_id: JobId) -> list[Artifact]:
    """Those that a job has written, or was about to write."""
    columns = (artifacts.c[name] for name in ("format", "outbox", "path", "sha256", "bytes"))
    return [Artifact(*row) for row in connection.execute(select(*columns).where(artifacts.c.job_id == job_id))]


def ended(connection: Connection, inbox: str, sightings: Sequence[Sighting]) -> list[Ended]:
    """Of these files, those whose job has ended for good: nothing more will be read from them."""
    first, live = jobs.alias("first"), jobs.alias("live")
    done = jobs.c.status.in_([Status.COMPLETED, Status.FAILED]) | (first.c.status == Status.COMPLETED)
    busy = exists().where(
        live.c.inbox == jobs.c.inbox,
        live.c.path_raw == jobs.c.path_raw,
        live.c.status.in_([Status.PENDING, Status.PROCESSING]),
    )
    columns = select(jobs, first.c.warning_kinds.label("first_warning_kinds"))
    query = columns.outerjoin(first, first.c.id == jobs.c.duplicate_of).where(jobs.c.inbox == inbox, done, ~busy)
    found: dict[bytes, Ended] = {}  # by path, the latest
    for part in slices(sightings):
        wanted = {(sighting.path, sighting.signature) for sighting in part}
        for row in connection.execute(query.where(jobs.c.path_raw.in_([s.path for s in part])).order_by(jobs.c.id)):
            signature = Signature(row.size, row.mtime_ns, row.inode)
            if (row.path_raw, signature) in wanted:
                failure = (row.error_code, row.error) if row.status == Status.FAILED else None
                warnings = _kinds(row.warning_kinds) | _kinds(row.first_warning_kinds)
                found[row.path_raw] = Ended(row.id, row.path_raw, signature, row.sha256, failure, warnings)
    return list(found.values())


def intend(tx: Transaction, job_id: JobId, token: Token, intended: Sequence[Artifact]) -> set[str]:
    """Take the names of artifacts before any is written. Returns those that another job has: then none is taken."""
    prove(tx, job_id, token)
    taken = {
        path
        for outbox in {artifact.outbox for artifact in intended}
        for path in names_taken(tx.connection, outbox, [a.path for a in intended if a.outbox == outbox], job_id=job_id)
    }
    if not taken:
        _replace(tx, job_id, intended, written_at=None)
    return taken


def complete(tx: Transaction, job_id: JobId, token: Token, written: Sequence[Artifact]) -> None:
    """The artifacts are durable: so is now the word of it."""
    leave(tx, job_id, token, Status.COMPLETED, outcome="completed", progress=1.0, error_code=None, error=None)
    _replace(tx, job_id, written, written_at=tx.now)
    tx.tell("job.completed", job_id, artifacts=[artifact.path for artifact in written])


def _replace(tx: Transaction, job_id: JobId, new: Sequence[Artifact], *, written_at: str | None) -> None:
    tx.connection.execute(delete(artifacts).where(artifacts.c.job_id == job_id))
    if new:
        rows = [
            {
                "job_id": job_id,
                "format": artifact.format,
                "outbox": artifact.outbox,
                "path": artifact.path,
                "path_key": collision_key(artifact.path),
                "sha256": artifact.sha256,
                "bytes": artifact.bytes,
                "written_at": written_at,
            }
            for artifact in new
        ]
        tx.connection.execute(insert(artifacts), rows)


def _kinds(text: str | None) -> frozenset[WarningKind]:
    return frozenset(map(WarningKind, json.loads(text or "[]")))


def _segment(row: Row[Any]) -> Segment:
    return Segment(
        start=row.start_seconds,
        end=row.end_seconds,
        text=row.text,
        avg_logprob=row.avg_logprob,
        compression_ratio=row.compression_ratio,
        no_speech_prob=row.no_speech_prob,
        channel=row.channel,
        words=tuple(Word(**word) for word in json.loads(row.words or "[]")),
    )
