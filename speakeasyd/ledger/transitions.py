"""Changes of a job's status. A trigger in the database enforces the table of legal transitions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Update, bindparam, select, update

from speakeasyd.domain.event_payloads import JobCancelled, JobRetryCancelled
from speakeasyd.domain.job import AttemptOutcome, JobId, Status, Token
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger import retries
from speakeasyd.ledger.tables import attempts, jobs
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # values per IN (...)

T = TypeVar("T")

# Once: a statement takes longer to build than to run. Columns are set by further parameters.
_MATCHES_CLAIM = (
    (jobs.c.id == bindparam("job"))
    & (jobs.c.claim_token == bindparam("token"))
    & (jobs.c.status == Status.PROCESSING)
)
_CLAIMED = select(jobs.c.id).where(_MATCHES_CLAIM)
_UPDATE_OWNED = update(jobs).where(_MATCHES_CLAIM)
_END_CLAIM = _UPDATE_OWNED.values(
    crashes=jobs.c.crashes + bindparam("crashed"),
    attempts=jobs.c.attempts - bindparam("uncounted"),
)
_SETTABLE = {*jobs.c.keys(), "crashed", "uncounted"}
_CLOSE_ATTEMPTS = (
    update(attempts)
    .where(attempts.c.job_id.in_(bindparam("jobs", expanding=True)), attempts.c.ended_at.is_(None))
    .values(
        {
            column.name: select(column).where(jobs.c.id == attempts.c.job_id).scalar_subquery()
            for column in (jobs.c.model, jobs.c.device)
        }
    )
)


def split_into_slices(items: Sequence[T], size: int = SLICE) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def update_owned_job(tx: Transaction, job_id: JobId, token: Token, **values: object) -> None:
    """Set columns of a claimed job. Raises ClaimLost if `token` is not that of the current claim."""
    _execute_update(tx, _UPDATE_OWNED, job_id, token, values)


def _execute_update(
    tx: Transaction, statement: Update, job_id: JobId, token: Token, values: Mapping[str, object]
) -> None:
    if unknown := values.keys() - _SETTABLE:  # SQLAlchemy would ignore them
        raise TypeError(f"a job has no {', '.join(unknown)}")
    parameters = {"job": job_id, "token": token, **values}
    if not tx.connection.execute(statement, parameters).rowcount:
        raise _claim_lost_error(job_id)


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
    crash: bool = False,
    counts: bool = True,
    **values: object,
) -> None:
    """End a claim: set the job's `status` and close the attempt with `outcome`. Raises ClaimLost.

    `crash`: a worker died on the job. `counts=False`: the attempt does not count.
    """
    ended: dict[str, object] = {
        "status": status,
        "finished_at": None if status is Status.PENDING else tx.now,
        "claim_token": None,
        "boot_id": None,
        "crashed": int(crash),
        "uncounted": int(not counts),
    }
    _execute_update(tx, _END_CLAIM, job_id, token, ended | values)
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
    values = {"ended_at": tx.now, "outcome": outcome, "error_code": code, "error": error}
    tx.connection.execute(_CLOSE_ATTEMPTS, {"jobs": list(job_ids), **values})


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
