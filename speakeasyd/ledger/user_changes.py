"""Changes that users request beside a running daemon, conditional like those of the daemon."""

from collections.abc import Sequence

from sqlalchemy import delete, exists, select, update

from speakeasyd.domain.event_payloads import JobRetried
from speakeasyd.domain.job import TERMINAL, JobId, Status
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger import retries, transitions
from speakeasyd.ledger.tables import NO_WAIT, chunks, jobs, strikes
from speakeasyd.ledger.writer import Transaction

_newer = jobs.alias("newer")
_SUPERSEDED = exists().where(
    _newer.c.inbox == jobs.c.inbox,
    _newer.c.path_raw == jobs.c.path_raw,
    _newer.c.id > jobs.c.id,
    (_newer.c.sha256 != jobs.c.sha256)
    | _newer.c.status.in_([Status.PENDING, Status.PROCESSING, Status.COMPLETED]),
)
"""The file was replaced, or a later job of its path has replaced this one."""

_UNDERWAY = (
    jobs.c.status.in_([Status.FAILED, Status.CANCELLED])
    & ~exists().where(chunks.c.job_id == jobs.c.id, chunks.c.gap)
).label("underway")

_AGAIN: dict[str, object] = {
    "status": Status.PENDING,
    "finished_at": None,
    "started_at": None,
    "attempts": 0,
    "crashes": 0,
    "error_code": None,
    "error": None,
    "duplicate_of": None,
    "work_key": None,  # a retry computes again and reuses no transcript
}
_AFRESH = _AGAIN | {
    "progress": 0.0,
    "transcribed": False,
    "container_seconds": None,
    "audio_seconds": None,
    "compute_seconds": 0.0,
    "language": None,
    "language_probability": None,
    "model": None,
    "device": None,
    "warning": None,
    "warning_kinds": None,
    "tracks": None,
    "speakers": None,
}


def retry_jobs(tx: Transaction, job_ids: Sequence[int]) -> list[JobId]:
    """Retry these jobs. Returns the retried ones.

    A job is retried if it has ended and its file was not replaced, or if it waits for a time.
    Chunks of a failed or cancelled job are kept, unless it has gaps. A completed job starts from
    the beginning; its finished text is kept until the new one is complete.
    """
    waiting = _stop_waiting(tx, job_ids)
    ended = select(jobs.c.id, _UNDERWAY).where(
        jobs.c.id.in_(job_ids), jobs.c.status.in_(TERMINAL), ~_SUPERSEDED
    )
    kept = {JobId(job_id): bool(underway) for job_id, underway in tx.connection.execute(ended)}
    afresh = [job_id for job_id, underway in kept.items() if not underway]
    retries.begin_retry(tx, afresh, _AFRESH)
    unfinished = set(afresh) - retries.find_retried(tx.connection, afresh)
    tx.connection.execute(delete(chunks).where(chunks.c.job_id.in_(unfinished)))
    tx.connection.execute(delete(strikes).where(strikes.c.job_id.in_(kept)))
    tx.connection.execute(
        update(jobs).where(jobs.c.id.in_(kept)).values(_AGAIN | {"available_at": NO_WAIT})
    )
    tx.connection.execute(update(jobs).where(jobs.c.id.in_(afresh)).values(_AFRESH))
    for job_id in kept:
        tx.record_event(JobRetried(), job_id)
    return [*waiting, *kept]


def _stop_waiting(tx: Transaction, job_ids: Sequence[int]) -> list[JobId]:
    """Make the postponed jobs among these available at once. Returns them."""
    pending = (
        jobs.c.id.in_(job_ids)
        & (jobs.c.status == Status.PENDING)
        & (jobs.c.available_at != NO_WAIT)
    )
    ids = [JobId(job_id) for job_id in tx.connection.scalars(select(jobs.c.id).where(pending))]
    if ids:
        tx.connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(available_at=NO_WAIT))
    for job_id in ids:
        tx.record_event(JobRetried(), job_id)
    return ids


def cancel_jobs(tx: Transaction, job_ids: Sequence[int]) -> list[JobId]:
    """Cancel the jobs among these that have not ended. Returns them."""
    return transitions.cancel_jobs(
        tx, job_ids, code=ErrorCode.CANCELLED, error="cancelled by a person"
    )
