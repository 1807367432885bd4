"""Changes of a job's status. A trigger in the database enforces the table of legal transitions."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    ScalarSelect,
    bindparam,
    select,
    update,
)

from speakeasyd.domain.event_payloads import JobCancelled, JobRetryCancelled
from speakeasyd.domain.job import AttemptOutcome, JobId, Status, Token
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger import retries
from speakeasyd.ledger.tables import attempts, jobs
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # values per IN (...)

T = TypeVar("T")


def split_into_slices(items: Sequence[T], size: int = SLICE) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def update_owned_job(tx: Transaction, job_id: JobId, token: Token, **values: object) -> None:
    """Change a claimed job. Raises ClaimLost if `token` is not that of the current claim."""
    if not tx.connection.execute(
        update(jobs).where(_matches_claim(job_id, token)).values(**values)
    ).rowcount:
        raise _claim_lost_error(job_id)


def _matches_claim(
    job_id: JobId | BindParameter[int], token: Token | BindParameter[str]
) -> ColumnElement[bool]:
    return (
        (jobs.c.id == job_id) & (jobs.c.claim_token == token) & (jobs.c.status == Status.PROCESSING)
    )


_CLAIMED = select(jobs.c.id).where(_matches_claim(bindparam("job"), bindparam("token")))


def require_claim(tx: Transaction, job_id: JobId, token: Token) -> None:
    """Check the claim; it cannot be lost within this transaction. Raises ClaimLost."""
    if not tx.connection.scalar(_CLAIMED, {"job": job_id, "token": token}):
        raise _claim_lost_error(job_id)


def end_claim(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    status: Status,
    *,
    outcome: AttemptOutcome,
    **values: object,
) -> None:
    """End a claim: set the job's `status` and close the attempt with `outcome`. Raises ClaimLost."""
    ended = None if status is Status.PENDING else tx.now
    update_owned_job(
        tx,
        job_id,
        token,
        status=status,
        finished_at=ended,
        claim_token=None,
        boot_id=None,
        **values,
    )
    close_attempts(
        tx, [job_id], outcome=outcome, code=values.get("error_code"), error=values.get("error")
    )


def close_attempts(
    tx: Transaction,
    job_ids: Sequence[int],
    *,
    outcome: AttemptOutcome,
    code: object = None,
    error: object = None,
) -> None:
    """Close the open attempts of these jobs, and record their model and device."""
    tx.connection.execute(
        update(attempts)
        .where(attempts.c.job_id.in_(job_ids), attempts.c.ended_at.is_(None))
        .values(
            ended_at=tx.now,
            outcome=outcome,
            error_code=code,
            error=error,
            model=_select_job_column(jobs.c.model),
            device=_select_job_column(jobs.c.device),
        )
    )


def _select_job_column(column: Column[Any]) -> ScalarSelect[Any]:
    return select(column).where(jobs.c.id == attempts.c.job_id).scalar_subquery()


def cancel_jobs(
    tx: Transaction, job_ids: Sequence[int], *, code: ErrorCode, error: str
) -> list[JobId]:
    """Cancel the jobs among these that have not ended. Returns them.

    Their claims become invalid. A completed job that was being retried becomes completed again.
    """
    if not job_ids:
        return []
    live = jobs.c.id.in_(job_ids) & jobs.c.status.in_([Status.PENDING, Status.PROCESSING])
    cancelled = [JobId(job_id) for job_id in tx.connection.scalars(select(jobs.c.id).where(live))]
    if not cancelled:
        return []
    close_attempts(tx, cancelled, outcome=AttemptOutcome.CANCELLED, code=code, error=error)
    restored = retries.restore_finished(tx, cancelled, error=None)
    others = [job_id for job_id in cancelled if job_id not in restored]
    ended = {
        "status": Status.CANCELLED,
        "finished_at": tx.now,
        "claim_token": None,
        "boot_id": None,
    }
    tx.connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(others))
        .values(ended | {"error_code": code, "error": error})
    )
    for job_id in cancelled:
        payload = JobRetryCancelled if job_id in restored else JobCancelled
        tx.record_event(payload(error_code=code, error=error), job_id)
    return cancelled


def _claim_lost_error(job_id: JobId) -> ClaimLost:
    return ClaimLost(f"job {job_id} is no longer owned by this claim")
