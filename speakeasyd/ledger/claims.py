"""Claims (leases): which job is next, who owns it, and how it is released.

Every change proves its claim with the claim token (fencing token).
"""

import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    TextClause,
    bindparam,
    func,
    insert,
    text,
    update,
)

from speakeasyd.domain.event_payloads import (
    JobClaimed,
    JobFailed,
    JobReleased,
    JobRetryFailed,
    ModelHeld,
)
from speakeasyd.domain.job import AttemptOutcome, Job, JobId, Signature, Status, SuspectChunk, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.queue_order import NextJob, QueueTurn
from speakeasyd.ledger import retries
from speakeasyd.ledger.retries import WORK_CHUNKS
from speakeasyd.ledger.tables import NO_WAIT, attempts, jobs
from speakeasyd.ledger.text_columns import parse_kinds, replace_surrogates
from speakeasyd.ledger.transcript_reuse import LENDER, copy_transcript
from speakeasyd.ledger.transitions import close_attempts, end_claims, require_claims
from speakeasyd.ledger.writer import Transaction

# The index is named because SQLite otherwise sorts all waiting jobs to find the next one.
_QUEUE = """
    SELECT {columns} FROM jobs INDEXED BY {index}
    WHERE status = 'pending' AND available_at <= :now {conditions}
    AND NOT EXISTS (
        SELECT 1 FROM jobs AS twin INDEXED BY ix_jobs_twins
        WHERE twin.status = 'processing' AND twin.work_key = jobs.work_key
    )
    ORDER BY priority DESC, queue_key, id LIMIT :limit
"""
_LATER = text("""
    SELECT min(available_at) FROM jobs INDEXED BY ix_jobs_available
    WHERE status = 'pending' AND available_at > :now
""")
_POSTPONE = text("""
    UPDATE jobs SET available_at = :until, error_code = :code, error = :error WHERE id IN (
        SELECT id FROM jobs INDEXED BY ix_jobs_claim
        WHERE status = 'pending' AND requested_model = :model AND available_at < :until LIMIT :limit
    )
""")
_DONE = f"(SELECT json_group_array(number) FROM {WORK_CHUNKS}) AS done"  # noqa: S608 - constants
_SAID = """(
    SELECT CASE WHEN EXISTS (SELECT 1 FROM retries WHERE job_id = jobs.id) THEN (
        SELECT json_group_object(number, text) FROM retry_chunks WHERE job_id = jobs.id AND NOT gap
    ) ELSE (
        SELECT json_group_object(number, (SELECT coalesce(group_concat(text, ''), '') FROM (
            SELECT text FROM segments WHERE segments.job_id = jobs.id AND chunk = chunks.number
            AND coalesce(segments.language = chunks.language, TRUE) ORDER BY position
        ))) FROM chunks WHERE job_id = jobs.id AND NOT gap
    ) END
) AS texts"""
_LANGUAGES = f"""(
    SELECT json_group_object(number, coalesce(language, jobs.language)) FROM {WORK_CHUNKS}
    WHERE NOT gap AND coalesce(language, jobs.language) IS NOT NULL
) AS languages"""  # noqa: S608 - constants
_SUSPECTS = f"""(
    SELECT json_group_array(json_array(chunk, start_seconds, end_seconds, strikes)) FROM strikes
    WHERE job_id = jobs.id AND chunk NOT IN (SELECT number FROM {WORK_CHUNKS})
) AS suspects"""  # noqa: S608 - constants

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


def find_next_job(
    connection: Connection, now: str, *, inboxes: Sequence[str] | None = None
) -> NextJob | None:
    """Return the job that `claim_jobs` would claim first; None if there is none."""
    columns = "requested_model, priority, queue_key, id"
    row = connection.execute(
        select_claimable(columns, now, 1, model=None, inboxes=inboxes)
    ).one_or_none()
    if row is None:
        return None
    return NextJob(row.requested_model, QueueTurn(-row.priority, row.queue_key, row.id))


def find_next_retry_time(connection: Connection, now: str) -> str | None:
    """Return the time at which the next waiting job becomes available; None if none waits."""
    return connection.execute(_LATER, {"now": now}).scalar()


def claim_jobs(
    tx: Transaction, limit: int, *, model: str | None = None, inboxes: Sequence[str] | None = None
) -> list[Job]:
    """Claim up to `limit` jobs, by priority and then turn; at least one if any is available.

    May return fewer than are available: call it until it returns none. `model`, `inboxes`: only
    jobs of these.

    Of jobs with the same work key, only one is claimed; the others wait for its transcript. If a
    completed job has done the same work, its chunks are copied and the job is returned with
    `transcribed` set.
    """
    waiting = select_claimable(
        f"*, {_DONE}, {_SAID}, {_LANGUAGES}, {_SUSPECTS}, {LENDER}",
        tx.now,
        limit,
        model=model,
        inboxes=inboxes,
    )
    rows = _drop_duplicate_work(tx.connection.execute(waiting))
    if borrowers := [row for row in rows if row.lender]:
        for row in borrowers:
            copy_transcript(tx, lender=row.lender, to=row.id)
        rows = _drop_duplicate_work(tx.connection.execute(waiting))
    claims = [
        {"job_id": row.id, "token": secrets.token_hex(8), "boot": tx.boot_id, "now": tx.now}
        for row in rows
    ]
    if claims:
        tx.connection.execute(_START, claims)
        tx.connection.execute(insert(attempts), [_build_attempt_row(claim) for claim in claims])
    return [
        _build_claimed_job(tx, row, claim["token"]) for row, claim in zip(rows, claims, strict=True)
    ]


def release_claim(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    *,
    available_at: str | None,
    error_code: str | None = None,
    error: str | None = None,
    crash: bool = False,
    counts: bool = True,
) -> None:
    """Return a job to `pending`; its chunks are kept. Raises ClaimLost.

    `available_at`: not before this time; None: at once. `crash`: a worker died on it.
    `counts=False`: the attempt does not count.
    """
    end_claims(
        tx,
        [(job_id, token)],
        Status.PENDING,
        outcome=AttemptOutcome.CRASHED if crash else AttemptOutcome.RELEASED,
        available_at=available_at or NO_WAIT,
        error_code=error_code,
        error=error,
        crash=crash,
        counts=counts,
    )
    released = JobReleased(
        error_code=error_code, error=error, available_at=available_at, crash=crash
    )
    tx.record_event(released, job_id)


def fail_job(tx: Transaction, job_id: JobId, token: Token, *, code: str, error: str) -> bool:
    """Fail a job. Returns False if it was a retry: its finished transcript is kept.

    Raises ClaimLost.
    """
    require_claims(tx, [(job_id, token)])
    if retries.find_retried(tx.connection, [job_id]):
        close_attempts(tx, [job_id], outcome=AttemptOutcome.FAILED, code=code, error=error)
        retries.restore_finished(tx, [job_id], error=f"{code}: {error}")
        tx.record_event(JobRetryFailed(error_code=code, error=error), job_id)
        return False
    end_claims(
        tx,
        [(job_id, token)],
        Status.FAILED,
        outcome=AttemptOutcome.FAILED,
        error_code=code,
        error=error,
    )
    tx.record_event(JobFailed(error_code=code, error=error), job_id)
    return True


def postpone_jobs(
    tx: Transaction, model: str, *, available_at: str, code: str, error: str, limit: int
) -> int:
    """Postpone up to `limit` pending jobs for `model`. Returns how many; 0 if none is left."""
    parameters = {
        "model": model,
        "until": available_at,
        "code": code,
        "error": replace_surrogates(error),
        "limit": limit,
    }
    count: int = tx.connection.execute(_POSTPONE, parameters).rowcount
    if count:
        held = ModelHeld(
            model=model, jobs=count, available_at=available_at, error_code=code, error=error
        )
        tx.record_event(held)
    return count


def select_claimable(
    columns: str, now: str, limit: int, *, model: str | None, inboxes: Sequence[str] | None
) -> TextClause:
    """Return the query for the available jobs in the order of the queue.

    `columns` must be SQL of this module: it is not escaped.
    """
    conditions = []
    parameters: list[BindParameter[Any]] = [bindparam("now", now), bindparam("limit", limit)]
    if model is not None:
        conditions.append("AND requested_model = :model")
        parameters.append(bindparam("model", model))
    if inboxes is not None:
        conditions.append("AND inbox IN :inboxes")
        parameters.append(bindparam("inboxes", list(inboxes), expanding=True))
    index = "ix_jobs_next" if model is None else "ix_jobs_claim"
    sql = _QUEUE.format(columns=columns, index=index, conditions=" ".join(conditions))
    return text(sql).bindparams(*parameters)


def _drop_duplicate_work(rows: Iterable[Row[Any]]) -> list[Row[Any]]:
    """Return the first row of each work key, in the given order."""
    first: dict[object, Row[Any]] = {}
    for row in rows:
        first.setdefault(row.work_key or row.id, row)
    return list(first.values())


def _build_attempt_row(claim: dict[str, Any]) -> dict[str, object]:
    return {
        "job_id": claim["job_id"],
        "claim_token": claim["token"],
        "boot_id": claim["boot"],
        "started_at": claim["now"],
    }


def _build_claimed_job(tx: Transaction, row: Row[Any], token: str) -> Job:
    """Return the claimed job, built from its row as it was before the claim."""
    attempt = row.attempts + 1
    tx.record_event(JobClaimed(inbox=row.inbox, path=row.path, attempt=attempt), row.id)
    return Job(
        id=row.id,
        token=Token(token),
        inbox=row.inbox,
        path=row.path_raw,
        signature=Signature(row.size, row.mtime_ns, row.inode),
        sha256=row.sha256,
        options=Options.model_validate_json(row.options),
        preset=row.preset,
        language=row.language,
        done=frozenset(json.loads(row.done)),
        texts={int(chunk): text for chunk, text in json.loads(row.texts).items()},
        languages={int(chunk): code for chunk, code in json.loads(row.languages).items()},
        transcribed=bool(row.transcribed),
        suspects=tuple(SuspectChunk(*suspect) for suspect in json.loads(row.suspects)),
        crashes=row.crashes,
        attempts=attempt,
        batch=row.batch,
        warnings=parse_kinds(row.warning_kinds),
        final_at=row.final_at,
        queue_key=row.queue_key,
    )
