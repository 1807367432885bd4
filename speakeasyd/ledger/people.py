"""What people ask for, beside a running daemon: the same conditional changes as the daemon's own."""

from collections.abc import Sequence

from sqlalchemy import delete, exists, select, update

from speakeasyd.domain.job import TERMINAL, JobId, Status
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger import transitions
from speakeasyd.ledger.tables import chunks, jobs, strikes
from speakeasyd.ledger.writer import Transaction

_newer = jobs.alias("newer")
_SUPERSEDED = exists().where(
    _newer.c.inbox == jobs.c.inbox,
    _newer.c.path_raw == jobs.c.path_raw,
    _newer.c.id > jobs.c.id,
    (_newer.c.sha256 != jobs.c.sha256) | _newer.c.status.in_([Status.PENDING, Status.PROCESSING, Status.COMPLETED]),
)
"""Its bytes are gone, or a later job has taken its place."""

_AFRESH: dict[str, object] = {
    "status": Status.PENDING,
    "finished_at": None,
    "started_at": None,
    "progress": 0.0,
    "attempts": 0,
    "crashes": 0,
    "transcribed": False,
    "container_seconds": None,
    "audio_seconds": None,
    "compute_seconds": 0.0,
    "language": None,
    "language_probability": None,
    "model": None,
    "device": None,
    "error_code": None,
    "error": None,
    "warning": None,
    "duplicate_of": None,
    "work_key": None,  # who asks again wants it done again, not lent
}


def retry(tx: Transaction, job_ids: Sequence[int]) -> list[JobId]:
    """Begin these jobs again from nothing. Returns those that will be: ended, and about the file as it is now."""
    ended = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(TERMINAL), ~_SUPERSEDED)
    again = [JobId(job_id) for job_id in tx.connection.scalars(ended)]
    tx.connection.execute(delete(chunks).where(chunks.c.job_id.in_(again)))
    tx.connection.execute(delete(strikes).where(strikes.c.job_id.in_(again)))
    tx.connection.execute(update(jobs).where(jobs.c.id.in_(again)).values(_AFRESH | {"available_at": tx.now}))
    for job_id in again:
        tx.tell("job.retried", job_id)
    return again


def cancel(tx: Transaction, job_ids: Sequence[int]) -> list[JobId]:
    """Stop those of these jobs that have not ended. Returns them."""
    return transitions.cancel(tx, job_ids, code=ErrorCode.CANCELLED, error="cancelled by a person")
