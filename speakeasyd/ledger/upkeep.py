"""State for the people who look, incidents, and the removal of old rows."""

import json

from speakeasyd.ledger.writer import Transaction


async def set_state(tx: Transaction, key: str, value: object) -> None:
    await tx.execute(
        "INSERT INTO state (key, value, updated_at) VALUES (:key, :value, :now) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        {"key": key, "value": json.dumps(value), "now": tx.now},
    )


async def incident(tx: Transaction, **what: object) -> int:
    row = await tx.execute(
        "INSERT INTO incident_records (opened_at, kind, phase, device, worker, job_id, chunk_idx, error, action) "
        "VALUES (:now, :kind, :phase, :device, :worker, :job_id, :chunk, :error, :action) RETURNING id",
        {**what, "now": tx.now},
    )
    incident_id: int = row.scalar_one()
    tx.tell("incident.opened", None, incident=incident_id, **what)
    return incident_id


async def resolve(tx: Transaction, incident_id: int, *, cost_seconds: float) -> None:
    await tx.execute(
        "UPDATE incident_records SET resolved_at = :now, cost_seconds = :cost WHERE id = :id",
        {"now": tx.now, "cost": cost_seconds, "id": incident_id},
    )
    tx.tell("incident.resolved", None, incident=incident_id, cost_seconds=cost_seconds)


async def prune(tx: Transaction, *, jobs_before: str | None, events_before: str) -> int:
    """Remove ended jobs and events of before these times (UTC, ISO 8601). Returns how many jobs went."""
    await tx.execute("DELETE FROM events WHERE at < :before", {"before": events_before})
    if jobs_before is None:
        return 0
    gone = await tx.execute("DELETE FROM jobs WHERE finished_at < :before", {"before": jobs_before})
    return gone.rowcount
