"""Claims: which job is next, whose it is, and how it is given back. Every change proves its claim."""

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, literal_column, select, text, update

from speakeasyd.domain.job import Job, JobId, Signature, Status, Suspect, Token
from speakeasyd.domain.options import Options
from speakeasyd.ledger.lending import LENDER, lend
from speakeasyd.ledger.tables import attempts, jobs
from speakeasyd.ledger.transitions import change, leave
from speakeasyd.ledger.writer import Transaction

# Conditions are spelled out: SQLite uses a partial index only where the index's own condition stands in the query.
_CLAIMABLE = text("""
    status = 'pending' AND available_at <= :now
    AND NOT EXISTS (SELECT 1 FROM jobs AS twin WHERE twin.status = 'processing' AND twin.work_key = jobs.work_key)
""")
_LATER = text("status = 'pending' AND available_at > :now")
_DONE: Any = literal_column("(SELECT json_group_array(number) FROM chunks WHERE job_id = jobs.id)").label("done")
_SUSPECTS: Any = literal_column("""(
    SELECT json_group_array(json_array(chunk, start_seconds, end_seconds, strikes)) FROM strikes
    WHERE job_id = jobs.id AND chunk NOT IN (SELECT number FROM chunks WHERE job_id = jobs.id)
)""").label("suspects")
_TURN = (jobs.c.priority.desc(), jobs.c.id)  # highest priority, then oldest

_START = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(
        status=Status.PROCESSING,
        claim_token=bindparam("token"),
        boot_id=bindparam("boot"),
        attempts=jobs.c.attempts + 1,
        started_at=func.coalesce(jobs.c.started_at, bindparam("now")),
    )
)


def next_model(connection: Connection, now: str, inboxes: Sequence[str] | None) -> str | None:
    """`options.model` of the job that `claim` would take first."""
    first = _claimable(select(jobs.c.requested_model), model=None, inboxes=inboxes).limit(1)
    return connection.execute(first, {"now": now}).scalar()


def next_available(connection: Connection, now: str) -> str | None:
    """When the next of the jobs that have to wait may be taken."""
    return connection.execute(select(func.min(jobs.c.available_at)).where(_LATER), {"now": now}).scalar()


def lost(connection: Connection, claimed: Sequence[tuple[JobId, Token]]) -> frozenset[JobId]:
    """Which of these claims no longer hold."""
    ids = [job_id for job_id, _ in claimed]
    held = select(jobs.c.id, jobs.c.claim_token).where(jobs.c.id.in_(ids), jobs.c.status == Status.PROCESSING)
    ours = {(row.id, row.claim_token) for row in connection.execute(held)}
    return frozenset(job_id for job_id, token in claimed if (job_id, token) not in ours)


def claim(tx: Transaction, limit: int, *, model: str | None, inboxes: Sequence[str] | None) -> list[Job]:
    """Take up to `limit` jobs; at least one if there is any that may be taken.

    Of jobs with the same work one is taken, and the others wait for its chunks. A job whose work has been done before
    is lent those chunks, and comes as `transcribed`.
    """
    query = _claimable(select(jobs.c.id, jobs.c.work_key, LENDER), model=model, inboxes=inboxes).limit(limit)
    taken = _without_twins(tx.connection.execute(query, {"now": tx.now}))
    if not taken:
        return []
    for row in taken:
        if row.lender:
            lend(tx, lender=row.lender, to=row.id)
    claims = [{"job_id": row.id, "token": secrets.token_hex(8), "boot": tx.boot_id, "now": tx.now} for row in taken]
    tx.connection.execute(_START, claims)
    tx.connection.execute(insert(attempts), [_attempt(claim) for claim in claims])
    claimed = select(jobs, _DONE, _SUSPECTS).where(jobs.c.id.in_([row.id for row in taken])).order_by(*_TURN)
    rows = tx.connection.execute(claimed).all()
    for row in rows:
        tx.tell("job.claimed", row.id, inbox=row.inbox, path=row.path, attempt=row.attempts)
    return [_job(row) for row in rows]


def note(tx: Transaction, job_id: JobId, token: Token, found: dict[str, object]) -> None:
    """Keep what a worker has found out so far; what is None stays as it was."""
    known = {name: value for name, value in found.items() if value is not None}
    if known:
        change(tx, job_id, token, **known)
        tx.mention("job.noted", job_id, **known)


def release(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    *,
    available_at: str | None,
    error_code: str | None,
    error: str | None,
    crash: bool,
    counts: bool,
) -> None:
    """Back to pending, chunks kept. `crash`: a worker died on it; `counts=False`: the attempt is given back."""
    leave(
        tx,
        job_id,
        token,
        Status.PENDING,
        outcome="crashed" if crash else "released",
        available_at=available_at or tx.now,
        error_code=error_code,
        error=error,
        crashes=jobs.c.crashes + int(crash),
        attempts=jobs.c.attempts - int(not counts),
    )
    tx.tell("job.released", job_id, error_code=error_code, error=error, available_at=available_at, crash=crash)


def fail(tx: Transaction, job_id: JobId, token: Token, *, code: str, error: str) -> None:
    """Given up."""
    leave(tx, job_id, token, Status.FAILED, outcome="failed", error_code=code, error=error)
    tx.tell("job.failed", job_id, error_code=code, error=error)


def postpone(tx: Transaction, model: str, *, available_at: str, code: str, error: str) -> int:
    """Let every pending job that asks for a model wait, and say why. Returns how many there are."""
    waiting = update(jobs).where(text("status = 'pending'"), jobs.c.requested_model == model)
    held = tx.connection.execute(waiting.values(available_at=available_at, error_code=code, error=error)).rowcount
    tx.tell("model.held", None, model=model, jobs=held, error=error, available_at=available_at)
    return held


def _claimable(query: Select[Any], *, model: str | None, inboxes: Sequence[str] | None) -> Select[Any]:
    """Those that may be taken now, in the order of their turn."""
    query = query.where(_CLAIMABLE).order_by(*_TURN)
    if model is not None:
        query = query.where(jobs.c.requested_model == model)
    if inboxes is not None:
        query = query.where(jobs.c.inbox.in_(inboxes))
    return query


def _without_twins(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    """The first of those with the same work, in the order given."""
    first: dict[object, Row[Any]] = {}
    for row in rows:
        first.setdefault(row.work_key or row.id, row)
    return list(first.values())


def _attempt(claim: dict[str, Any]) -> dict[str, object]:
    return {
        "job_id": claim["job_id"],
        "claim_token": claim["token"],
        "boot_id": claim["boot"],
        "started_at": claim["now"],
    }


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        token=row.claim_token,
        inbox=row.inbox,
        path=row.path_raw,
        signature=Signature(row.size, row.mtime_ns, row.inode),
        options=Options.model_validate_json(row.options),
        preset=row.preset,
        language=row.language,
        done=frozenset(json.loads(row.done)),
        transcribed=row.transcribed,
        suspects=tuple(Suspect(*suspect) for suspect in json.loads(row.suspects)),
        crashes=row.crashes,
        attempts=row.attempts,
    )
