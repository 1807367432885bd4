"""Recovery after a restart, incidents, the daemon's own state, and the removal of what is old."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.clock import add_seconds
from speakeasyd.domain.job import JobId, Status, Token
from speakeasyd.domain.retry import BackoffSettings, longest_wait
from speakeasyd.ledger.tables import (
    NO_WAIT,
    batches,
    chunks,
    deliveries,
    events,
    incident_records,
    jobs,
    retry_chunks,
    state,
    tombstones,
)
from speakeasyd.ledger.text_columns import encode_json
from speakeasyd.ledger.transitions import close_attempts
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # jobs removed in one transaction: others need not wait long


@dataclass(frozen=True, slots=True)
class RecoveredClaims:
    """What an earlier daemon left behind."""

    jobs: tuple[JobId, ...]  # go on where they were
    chunks: int  # committed, that need not be done again


def release_stale_claims(tx: Transaction) -> RecoveredClaims:
    """Every job that an earlier daemon had claimed goes back to pending: there is one daemon, and it is this one."""
    orphans = select(jobs.c.id).where(
        jobs.c.status == Status.PROCESSING, jobs.c.boot_id != tx.boot_id
    )
    found = [JobId(job_id) for job_id in tx.connection.scalars(orphans)]
    if not found:
        return RecoveredClaims(jobs=(), chunks=0)
    back = {"status": Status.PENDING, "claim_token": None, "boot_id": None, "available_at": NO_WAIT}
    tx.connection.execute(update(jobs).where(jobs.c.id.in_(found)).values(back))
    close_attempts(tx, found, outcome="interrupted")
    for job_id in found:
        tx.record_event("job.recovered", job_id)
    kept = tx.connection.scalar(
        select(func.count()).select_from(chunks).where(chunks.c.job_id.in_(found))
    )
    return RecoveredClaims(jobs=tuple(found), chunks=kept or 0)


def shorten_waits(
    tx: Transaction, job_waits: BackoffSettings, *, delivery_wait_s: float, final_wait_s: float
) -> None:
    """Leave no wait that is longer than it can have been meant: the clock may have been set while no daemon ran."""
    never = (jobs.c.status == Status.PENDING) & (jobs.c.available_at == jobs.c.created_at)
    tx.connection.execute(
        update(jobs).where(never).values(available_at=NO_WAIT)
    )  # as earlier versions had it
    late = (jobs.c.status == Status.PENDING) & (jobs.c.available_at > tx.now)
    for crashes in tx.connection.scalars(select(jobs.c.crashes).where(late).distinct()).all():
        until = add_seconds(tx.now, longest_wait(crashes, job_waits))
        longer = late & (jobs.c.crashes == crashes) & (jobs.c.available_at > until)
        tx.connection.execute(update(jobs).where(longer).values(available_at=until))
    until = add_seconds(tx.now, final_wait_s)
    unfinal = jobs.c.status.in_([Status.PENDING, Status.PROCESSING]) & (jobs.c.final_at > until)
    tx.connection.execute(update(jobs).where(unfinal).values(final_at=until))
    for tried, wait_s in (
        (deliveries.c.attempts == 0, 0.0),
        (deliveries.c.attempts > 0, delivery_wait_s),
    ):
        until = add_seconds(tx.now, wait_s)
        longer = text("status = 'pending'") & tried & (deliveries.c.available_at > until)
        tx.connection.execute(update(deliveries).where(longer).values(available_at=until))


def shift_waits(tx: Transaction, seconds: float) -> None:
    """The clock was set by so many seconds: what waits for a time still waits as long as it had to."""
    unfinished = jobs.c.status.in_([Status.PENDING, Status.PROCESSING])
    for column, waits in (
        (jobs.c.available_at, (jobs.c.status == Status.PENDING) & (jobs.c.available_at != NO_WAIT)),
        (jobs.c.final_at, unfinished & jobs.c.final_at.is_not(None)),
        (deliveries.c.available_at, text("status = 'pending'")),
    ):
        shifted = func.strftime("%Y-%m-%dT%H:%M:%fZ", column, f"{seconds:+.3f} seconds")
        tx.connection.execute(update(column.table).where(waits).values({column.name: shifted}))


@dataclass(frozen=True, slots=True)
class Underway:
    """A claimed job, as the ledger has it."""

    id: JobId
    token: Token
    inbox: str
    path: str
    transcribed: bool
    progress: float
    crashes: int
    chunks: int  # that are kept


_KEPT_CHUNKS = (
    select(func.count()).where(chunks.c.job_id == jobs.c.id).scalar_subquery()
    + select(func.count()).where(retry_chunks.c.job_id == jobs.c.id).scalar_subquery()
)


def underway(connection: Connection) -> list[Underway]:
    """Every job that is claimed."""
    names = ("id", "claim_token", "inbox", "path", "transcribed", "progress", "crashes")
    columns: list[Any] = [*(jobs.c[name] for name in names), _KEPT_CHUNKS]
    claimed = select(*columns).where(jobs.c.status == Status.PROCESSING)
    return [Underway(*row) for row in connection.execute(claimed)]


def chunks_of_unfinished(connection: Connection, job_ids: Sequence[JobId]) -> dict[JobId, int]:
    """How many chunks are kept of each of these jobs that has not ended."""
    unfinished = jobs.c.status.in_([Status.PENDING, Status.PROCESSING])
    found = select(jobs.c.id, _KEPT_CHUNKS).where(jobs.c.id.in_(job_ids), unfinished)
    return {JobId(job_id): count for job_id, count in connection.execute(found)}


def open_incident(
    tx: Transaction,
    *,
    kind: str,
    phase: str,
    device: str | None,
    worker: str | None,
    error: str,
    action: str,
    job_id: JobId | None,
    chunk: int | None,
) -> int:
    """Open an incident. Returns its id."""
    about = {
        "kind": kind,
        "phase": phase,
        "device": device,
        "worker": worker,
        "error": error,
        "action": action,
    }
    opened = insert(incident_records).values(
        about | {"at": tx.now, "job_id": job_id, "chunk": chunk}
    )
    incident_id = int(tx.connection.execute(opened).lastrowid)
    tx.record_event("incident.opened", job_id, incident_id=incident_id, chunk=chunk, **about)
    return incident_id


def close_incident(tx: Transaction, incident_id: int, *, cost_seconds: float) -> None:
    """The incident is over; it took this long."""
    over = update(incident_records).where(incident_records.c.id == incident_id)
    tx.connection.execute(over.values(resolved_at=tx.now, cost_seconds=cost_seconds))
    tx.record_event("incident.resolved", incident_id=incident_id, cost_seconds=cost_seconds)


def load_state(connection: Connection, key: str) -> Any:
    """What was said of the daemon under this key; None if nothing was."""
    said = connection.scalar(select(state.c.value).where(state.c.key == key))
    return json.loads(said) if said else None


def store_state(tx: Transaction, key: str, value: object) -> None:
    """Say something about the daemon itself to those who ask the ledger."""
    row = {"value": encode_json(value), "updated_at": tx.now}
    tx.connection.execute(upsert(state).values(row | {"key": key}).on_conflict_do_update(set_=row))


def send_request(tx: Transaction, wish: str) -> None:
    """Leave a wish for the daemon, which hears it as an event."""
    tx.record_event(f"daemon.{wish}_asked", None)


def delete_old_jobs(tx: Transaction, before: str) -> int:
    """Remove some of the jobs that ended before then. Returns how many: 0 when there are none left.

    A tombstone stays of each, since its file may still lie in the inbox.
    """
    old = (
        select(jobs.c.id)
        .where(text("finished_at IS NOT NULL"), jobs.c.finished_at < before)
        .limit(SLICE)
    )
    found = list(tx.connection.scalars(old))
    if found:
        names = [column.name for column in tombstones.c]
        these = (
            select(*(jobs.c[name] for name in names))
            .where(jobs.c.id.in_(found))
            .order_by(jobs.c.id)
        )
        tx.connection.execute(
            insert(tombstones).prefix_with("OR REPLACE").from_select(names, these)
        )
        tx.connection.execute(delete(jobs).where(jobs.c.id.in_(found)))
        tx.connection.execute(delete(batches).where(batches.c.total == 0))
    return len(found)


def delete_old_events(tx: Transaction, before: str) -> int:
    """Remove the events before then, and who was told; but never the last event: the numbers go on from it."""
    tx.connection.execute(delete(deliveries).where(deliveries.c.created_at < before))
    last = select(func.max(events.c.seq)).scalar_subquery()
    return tx.connection.execute(
        delete(events).where(events.c.at < before, events.c.seq < last)
    ).rowcount
