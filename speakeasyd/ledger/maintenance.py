"""Recovery after a restart, incidents, the daemon's state, and deletion of old data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.clock import add_seconds
from speakeasyd.domain.event_payloads import (
    DaemonRequest,
    IncidentOpened,
    IncidentResolved,
    JobRecovered,
)
from speakeasyd.domain.incidents import Incident
from speakeasyd.domain.job import AttemptOutcome, JobId, Status, Token
from speakeasyd.domain.retry import BackoffSettings, longest_wait
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.ledger.tables import (
    NO_WAIT,
    PENDING_DELIVERY,
    arrivals,
    batches,
    chunks,
    deliveries,
    events,
    inbox_states,
    incident_records,
    jobs,
    retry_chunks,
    state,
    tombstones,
)
from speakeasyd.ledger.text_columns import encode_json
from speakeasyd.ledger.transitions import close_attempts
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # jobs deleted per transaction, so that other writers do not wait long


@dataclass(frozen=True, slots=True)
class RecoveredClaims:
    """The stale claims of an earlier daemon."""

    jobs: tuple[JobId, ...]  # continue from their committed chunks
    chunks: int  # number of committed chunks, which are not computed again


def release_stale_claims(tx: Transaction) -> RecoveredClaims:
    """Return every job that an earlier daemon had claimed to `pending`.

    Only one daemon runs per ledger, so claims with another `boot_id` are stale.
    """
    orphans = select(jobs.c.id).where(
        jobs.c.status == Status.PROCESSING, jobs.c.boot_id != tx.boot_id
    )
    stale = [JobId(job_id) for job_id in tx.connection.scalars(orphans)]
    if not stale:
        return RecoveredClaims(jobs=(), chunks=0)
    released = {
        "status": Status.PENDING,
        "claim_token": None,
        "boot_id": None,
        "available_at": NO_WAIT,
    }
    tx.connection.execute(update(jobs).where(jobs.c.id.in_(stale)).values(released))
    close_attempts(tx, stale, outcome=AttemptOutcome.INTERRUPTED)
    for job_id in stale:
        tx.record_event(JobRecovered(), job_id)
    committed = tx.connection.scalar(
        select(func.count()).select_from(chunks).where(chunks.c.job_id.in_(stale))
    )
    return RecoveredClaims(jobs=tuple(stale), chunks=committed or 0)


def shorten_waits(
    tx: Transaction,
    backoff_settings: BackoffSettings,
    *,
    delivery_wait_s: float,
    final_wait_s: float,
) -> None:
    """Limit every wait to its longest possible value, because the clock may have been set back.

    Covers jobs (backoff), incomplete files (`final_wait_s` seconds) and deliveries
    (`delivery_wait_s` seconds).
    """
    never = (jobs.c.status == Status.PENDING) & (jobs.c.available_at == jobs.c.created_at)
    # earlier versions stored the time of creation for jobs without a wait
    tx.connection.execute(update(jobs).where(never).values(available_at=NO_WAIT))
    late = (jobs.c.status == Status.PENDING) & (jobs.c.available_at > tx.now)
    for crashes in tx.connection.scalars(select(jobs.c.crashes).where(late).distinct()).all():
        until = add_seconds(tx.now, longest_wait(crashes, backoff_settings))
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
        longer = PENDING_DELIVERY & tried & (deliveries.c.available_at > until)
        tx.connection.execute(update(deliveries).where(longer).values(available_at=until))


def shift_waits(tx: Transaction, seconds: float) -> None:
    """Shift every stored wait by `seconds`, by which the clock was set: waits keep their length."""
    unfinished = jobs.c.status.in_([Status.PENDING, Status.PROCESSING])
    for column, waits in (
        (jobs.c.available_at, (jobs.c.status == Status.PENDING) & (jobs.c.available_at != NO_WAIT)),
        (jobs.c.final_at, unfinished & jobs.c.final_at.is_not(None)),
        (deliveries.c.available_at, PENDING_DELIVERY),
    ):
        shifted = func.strftime("%Y-%m-%dT%H:%M:%fZ", column, f"{seconds:+.3f} seconds")
        tx.connection.execute(update(column.table).where(waits).values({column.name: shifted}))
    tx.connection.execute(
        update(jobs).where(unfinished).values(queue_key=jobs.c.queue_key + seconds)
    )


@dataclass(frozen=True, slots=True)
class Underway:
    """A claimed job."""

    id: JobId
    token: Token
    inbox: str
    path: str
    transcribed: bool
    progress: float
    crashes: int
    chunks: int  # number of committed chunks


_KEPT_CHUNKS = (
    select(func.count()).where(chunks.c.job_id == jobs.c.id).scalar_subquery()
    + select(func.count()).where(retry_chunks.c.job_id == jobs.c.id).scalar_subquery()
)


def find_underway(connection: Connection) -> list[Underway]:
    """Return every claimed job."""
    names = ("id", "claim_token", "inbox", "path", "transcribed", "progress", "crashes")
    columns: list[Any] = [*(jobs.c[name] for name in names), _KEPT_CHUNKS]
    claimed = select(*columns).where(jobs.c.status == Status.PROCESSING)
    return [Underway(*row) for row in connection.execute(claimed)]


def chunks_of_unfinished(connection: Connection, job_ids: Sequence[JobId]) -> dict[JobId, int]:
    """Return the number of committed chunks of each of these jobs that has not ended."""
    unfinished = jobs.c.status.in_([Status.PENDING, Status.PROCESSING])
    query = select(jobs.c.id, _KEPT_CHUNKS).where(jobs.c.id.in_(job_ids), unfinished)
    return {JobId(job_id): count for job_id, count in connection.execute(query)}


def open_incident(
    tx: Transaction,
    incident: Incident,
) -> int:
    """Record an incident. Returns its id."""
    opened = insert(incident_records).values(
        at=tx.now,
        kind=incident.kind,
        phase=incident.phase,
        device=incident.device,
        worker=incident.worker,
        job_id=incident.job_id,
        chunk=incident.chunk,
        summary=incident.summary,
        error=incident.detail,
        action=incident.action,
    )
    incident_id = int(tx.connection.execute(opened).lastrowid)
    tx.record_event(IncidentOpened.of(incident_id, incident), incident.job_id)
    return incident_id


def close_incident(tx: Transaction, incident_id: int, *, cost_seconds: float) -> None:
    """Record that an incident is resolved. `cost_seconds`: how long it took."""
    over = update(incident_records).where(incident_records.c.id == incident_id)
    tx.connection.execute(over.values(resolved_at=tx.now, cost_seconds=cost_seconds))
    tx.record_event(IncidentResolved(incident_id=incident_id, cost_seconds=cost_seconds))


def close_abandoned_incidents(tx: Transaction) -> None:
    """Record that the incidents of an earlier daemon ended with it; what they cost is unknown."""
    unresolved = incident_records.c.resolved_at.is_(None)
    tx.connection.execute(update(incident_records).where(unresolved).values(resolved_at=tx.now))


def forget_waiting_files(tx: Transaction) -> None:
    """Remove the arrivals that an earlier daemon waited for: its scan is not continued."""
    tx.connection.execute(delete(arrivals))


def load_state(connection: Connection, key: StateKey) -> Any:
    """Return the stored value of `key`, decoded from JSON; None if there is none."""
    value = connection.scalar(select(state.c.value).where(state.c.key == key))
    return json.loads(value) if value else None


def store_state(tx: Transaction, key: StateKey, value: object) -> None:
    """Store a value as JSON under `key`, replacing the earlier one."""
    row = {"value": encode_json(value), "updated_at": tx.now}
    tx.connection.execute(upsert(state).values(row | {"key": key}).on_conflict_do_update(set_=row))


def store_inbox_state(tx: Transaction, inbox: str, value: object) -> None:
    """Store how an inbox is watched, as JSON, replacing the earlier value."""
    row = {"value": encode_json(value), "updated_at": tx.now}
    stored = upsert(inbox_states).values(row | {"inbox": inbox})
    tx.connection.execute(stored.on_conflict_do_update(set_=row))


def send_request(tx: Transaction, request: DaemonRequest) -> None:
    """Leave a request for the daemon, which receives it as an event."""
    tx.record_event(request)


def delete_old_jobs(tx: Transaction, before: str) -> int:
    """Delete up to `SLICE` jobs that ended before a time. Returns how many; 0 when none is left.

    Each leaves a tombstone, because its file may still be in the inbox.
    """
    old = (
        select(jobs.c.id)
        .where(text("finished_at IS NOT NULL"), jobs.c.finished_at < before)
        .limit(SLICE)
    )
    ids = list(tx.connection.scalars(old))
    if ids:
        names = [column.name for column in tombstones.c]
        rows = (
            select(*(jobs.c[name] for name in names)).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
        )
        tx.connection.execute(insert(tombstones).prefix_with("OR REPLACE").from_select(names, rows))
        tx.connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
        tx.connection.execute(delete(batches).where(batches.c.total == 0))
    return len(ids)


def delete_old_events(tx: Transaction, before: str) -> int:
    """Delete the events and deliveries from before a time. Returns the number of deleted events.

    The last event is never deleted, because the numbering continues from it.
    """
    tx.connection.execute(delete(deliveries).where(deliveries.c.created_at < before))
    last = select(func.max(events.c.seq)).scalar_subquery()
    return tx.connection.execute(
        delete(events).where(events.c.at < before, events.c.seq < last)
    ).rowcount
