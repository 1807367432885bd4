"""The order of events: those of this program and, as soon as they are noticed, those of others on the same ledger."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from speakeasyd.events import Event
from speakeasyd.ledger.tables import events
from speakeasyd.ledger.text_columns import encode_json

_KEEP = text("""
    INSERT INTO events (at, kind, job_id, data)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
           json_extract(value, '$[3]')
    FROM json_each(:events) ORDER BY key
""")


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event of a transaction in progress; `keep` it in the ledger, or only publish it after the commit."""

    event: Event
    keep: bool


class EventLog:
    """Writes events inside the transaction that holds the write lock: their numbers follow without a hole."""

    def __init__(self, connection: Connection) -> None:
        self._seen = _find_newest_seq(connection)

    def write_events(self, connection: Connection, news: Sequence[EventDraft]) -> list[Event]:
        """Keep what is to be kept. Returns all that is to be published, events of other programs first."""
        kept = [item.event for item in news if item.keep]
        last = _insert_events(connection, kept) if kept else _find_newest_seq(connection)
        before = last - len(kept)
        numbers = count(before + 1)
        told = [
            replace(item.event, seq=next(numbers)) if item.keep else item.event for item in news
        ]
        return [*self._load_foreign_events(connection, before), *told]

    def mark_committed(self, published: Sequence[Event]) -> None:
        """Nothing counts as seen before it is durable: a transaction that was taken back gives its numbers back."""
        self._seen = max(self._seen, *(event.seq or 0 for event in published), 0)

    def _load_foreign_events(self, connection: Connection, last: int) -> list[Event]:
        if last <= self._seen:
            return []
        rows = connection.execute(
            select(events).where(events.c.seq.between(self._seen + 1, last)).order_by(events.c.seq)
        )
        return [_build_event(row) for row in rows]


def load_events_after(connection: Connection, seq: int, *, limit: int) -> list[Event] | None:
    """The events since that number; None where they cannot be told: forgotten, more than `limit`, never been."""
    oldest, newest = connection.execute(
        select(func.min(events.c.seq), func.max(events.c.seq))
    ).one()
    if seq == (newest or 0):
        return []
    if newest is None or not oldest - 1 <= seq <= newest or newest - seq > limit:
        return None
    return [
        _build_event(row)
        for row in connection.execute(
            select(events).where(events.c.seq > seq).order_by(events.c.seq)
        )
    ]


def _build_event(row: Row[Any]) -> Event:
    return Event(row.kind, row.at, row.seq, row.job_id, json.loads(row.data))


def _find_newest_seq(connection: Connection) -> int:
    return connection.execute(select(func.max(events.c.seq))).scalar() or 0


def _insert_events(connection: Connection, kept: Sequence[Event]) -> int:
    """One statement, however many there are. Returns the number of the last."""
    rows = [(e.at, e.kind, e.job_id, encode_json(e.data)) for e in kept]
    return connection.execute(_KEEP, {"events": encode_json(rows)}).lastrowid
