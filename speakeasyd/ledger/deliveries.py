"""Deliveries of events to targets (outbox pattern): enqueued, retried, and ended."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import BatchCompleted, NoticeFailed, NoticePostponed
from speakeasyd.domain.notifications import Delivery, DeliveryStatus, Notification, NotificationKind
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.events import Event
from speakeasyd.ledger.maintenance import load_state, store_state
from speakeasyd.ledger.tables import PENDING_DELIVERY, artifacts, deliveries, events, jobs
from speakeasyd.ledger.text_columns import encode_json
from speakeasyd.ledger.writer import Transaction

SLICE = 500  # most events per query

_DONE_BATCHES = text("""
    SELECT name AS batch, total, completed, failed, cancelled, skipped,
           audio_ms / 1000.0 AS audio_seconds
    FROM batches
    WHERE pending = 0 AND processing = 0
      AND name IN (SELECT batch FROM jobs WHERE finished_at > :since AND finished_at <= :until)
      AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.batch = batches.name AND finished_at > :until)
""")


def load_cursor(connection: Connection, now: str) -> tuple[int, str]:
    """Return the notifier's cursor.

    Its parts: the number of the last event that was enqueued, and the time up to which finished
    batches were reported. Before the first run: the newest event and the current time.
    """
    cursor: Mapping[str, Any] | None = load_state(connection, StateKey.NOTIFICATIONS)
    return (cursor["seq"], cursor["until"]) if cursor else (find_newest_seq(connection), now)


def find_newest_seq(connection: Connection) -> int:
    """Return the number of the newest event; 0 if there is none."""
    return connection.scalar(select(func.max(events.c.seq))) or 0


def find_finished_batches(
    connection: Connection, *, since: str, until: str
) -> list[BatchCompleted]:
    """Return the batches whose last job ended in (since, until] and that have no job left."""
    return [
        BatchCompleted(**row._mapping)
        for row in connection.execute(_DONE_BATCHES, {"since": since, "until": until})
    ]


def record_finished_batches(
    tx: Transaction, batches: Sequence[BatchCompleted], *, seq: int, until: str
) -> None:
    """Record `batch.completed` for each batch, and move the cursor."""
    for batch in batches:
        tx.record_event(batch)
    store_cursor(tx, seq=seq, until=until)


def store_cursor(tx: Transaction, *, seq: int, until: str) -> None:
    store_state(tx, StateKey.NOTIFICATIONS, {"seq": seq, "until": until})


def load_events_with_jobs(
    connection: Connection, kinds: Iterable[EventKind], *, after: int, upto: int
) -> list[Event]:
    """Return at most `SLICE` events of these kinds with `after < seq <= upto`, in order.

    The data of each event is extended by the data of its job.
    """
    query = select(events).where(
        events.c.seq > after, events.c.seq <= upto, events.c.kind.in_(list(kinds))
    )
    return [
        _add_job_data(connection, row)
        for row in connection.execute(query.order_by(events.c.seq).limit(SLICE)).all()
    ]


def enqueue_deliveries(
    tx: Transaction, wanted: Sequence[tuple[str, Notification]], *, seq: int, until: str
) -> None:
    """Enqueue a delivery for each target and notification, and move the cursor.

    Idempotent: a delivery that exists already is not changed.
    """
    if wanted:
        rows = [
            {
                "target": target,
                "seq": notification.seq,
                "kind": notification.kind,
                "payload": encode_json(
                    {
                        "type": notification.kind,
                        "timestamp": notification.at,
                        "data": dict(notification.data),
                    }
                ),
                "created_at": tx.now,
                "available_at": tx.now,
            }
            for target, notification in wanted
        ]
        tx.connection.execute(insert(deliveries).prefix_with("OR IGNORE"), rows)
    store_cursor(tx, seq=seq, until=until)


def find_next_delivery(connection: Connection, target: str) -> Delivery | None:
    """Return the delivery of a target that is due first; None if there is none."""
    due = select(deliveries).where(deliveries.c.target == target, PENDING_DELIVERY)
    row = connection.execute(
        due.order_by(deliveries.c.available_at, deliveries.c.id).limit(1)
    ).one_or_none()
    if row is None:
        return None
    return Delivery(
        id=row.id,
        kind=NotificationKind(row.kind),
        body=row.payload,
        attempts=row.attempts,
        created_at=datetime.fromisoformat(row.created_at),
        available_at=datetime.fromisoformat(row.available_at),
    )


def mark_delivered(tx: Transaction, delivery_id: int) -> None:
    _update_delivery(tx, delivery_id, status=DeliveryStatus.DELIVERED, ended_at=tx.now, error=None)


def mark_delivery_failed(
    tx: Transaction, delivery: Delivery, target: str, *, error: str, again_at: str | None
) -> None:
    """Record a failed attempt. `again_at`: time of the next attempt; None: give up."""
    if again_at is None:
        _update_delivery(
            tx, delivery.id, status=DeliveryStatus.FAILED, ended_at=tx.now, error=error
        )
        tx.record_event(NoticeFailed(target=target, about=delivery.kind, error=error))
    else:
        _update_delivery(tx, delivery.id, available_at=again_at, error=error)
        postponed = NoticePostponed(
            target=target, about=delivery.kind, error=error, again_at=again_at
        )
        tx.publish_event(postponed)


def _update_delivery(tx: Transaction, delivery_id: int, **values: object) -> None:
    delivery = update(deliveries).where(deliveries.c.id == delivery_id)
    tx.connection.execute(delivery.values(attempts=deliveries.c.attempts + 1, **values))


def _add_job_data(connection: Connection, row: Row[Any]) -> Event:
    data = json.loads(row.data)
    if row.job_id is not None:
        data = (
            _load_job_data(connection, row.job_id)
            | data
            | {"artifacts": _load_artifact_paths(connection, row.job_id)}
        )
    return Event(EventKind(row.kind), row.at, row.seq, row.job_id, data)


def _load_job_data(connection: Connection, job_id: int) -> dict[str, Any]:
    names = (
        "inbox",
        "path",
        "batch",
        "preset",
        "language",
        "audio_seconds",
        "model",
        "error_code",
        "error",
        "warning",
    )
    columns = [jobs.c.path_raw, *(jobs.c[name] for name in names)]
    row = connection.execute(select(*columns).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        return {"job_id": job_id}
    values = dict(row._mapping)
    path = values.pop("path_raw")
    return {"job_id": job_id} | values | _exact_path(path)


def _exact_path(path: bytes) -> dict[str, str]:
    """Return `path_base64` for a path that is not UTF-8: its `path` is only for display."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return {"path_base64": base64.b64encode(path).decode()}
    return {}


def _load_artifact_paths(connection: Connection, job_id: int) -> dict[str, str]:
    """Return the paths of the written artifacts of a job, by format."""
    query = select(artifacts).where(
        artifacts.c.job_id == job_id, artifacts.c.written_at.is_not(None)
    )
    return {row.format: f"{row.outbox}/{row.path}" for row in connection.execute(query)}
