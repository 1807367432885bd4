"""Changes of a job's status. A trigger in the database enforces the table of legal transitions."""

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Connection, bindparam, select, update

from speakeasyd.domain.event_payloads import JobCancelled, JobRetryCancelled
from speakeasyd.domain.job import AttemptOutcome, JobId, Status, Token
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger import retries
from speakeasyd.ledger.tables import attempts, jobs
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # values per IN (...)

T = TypeVar("T")

# Once: a statement takes longer to build than to run. Columns are set by further parameters.
_HELD = select(jobs.c.id, jobs.c.claim_token).where(
    jobs.c.id.in_(bindparam("jobs", expanding=True)), jobs.c.status == Status.PROCESSING
)
_END_CLAIM = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        crashes=jobs.c.crashes + bindparam("crashed"),
        attempts=jobs.c.attempts - bindparam("uncounted"),
    )
)
_SETTABLE = frozenset(jobs.c.keys())
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


def find_lost_claims(
    connection: Connection, claims: Collection[tuple[JobId, Token]]
) -> frozenset[JobId]:
    """Return the jobs whose claims are no longer valid."""
    rows = connection.execute(_HELD, {"jobs": [job_id for job_id, _ in claims]})
    held = {(row.id, row.claim_token) for row in rows}
    return frozenset(job_id for job_id, token in claims if (job_id, token) not in held)


def require_claims(tx: Transaction, claims: Collection[tuple[JobId, Token]]) -> None:
    """Check the claims; none can be lost within this transaction. Raises ClaimLost."""
    for job_id in find_lost_claims(tx.connection, claims):
        raise ClaimLost(f"job {job_id} is no longer owned by this claim")


def end_claims(
    tx: Transaction,
    claims: Collection[tuple[JobId, Token]],
    status: Status,
    *,
    outcome: AttemptOutcome,
    crash: bool = False,
    counts: bool = True,
    **values: object,
) -> None:
    """End claims: set `status` and other columns of the jobs, and close their attempts.

    `crash`: a worker died on the jobs. `counts=False`: the attempts do not count. Raises ClaimLost
    before anything is changed; the transaction holds the write lock, so no claim is lost meanwhile.
    """
    require_claims(tx, claims)
    if unknown := values.keys() - _SETTABLE:  # SQLAlchemy would ignore them
        raise TypeError(f"a job has no {', '.join(unknown)}")
    ended: dict[str, object] = {
        "status": status,
        "finished_at": None if status is Status.PENDING else tx.now,
        "claim_token": None,
        "boot_id": None,
        "crashed": int(crash),
        "uncounted": int(not counts),
        **values,
    }
    jobs_ended = [{"job": job_id, **ended} for job_id, _ in claims]
    tx.connection.execute(_END_CLAIM, jobs_ended)
    close_attempts(
        tx,
        [job_id for job_id, _ in claims],
        outcome=outcome,
        code=values.get("error_code"),
        error=values.get("error"),
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
