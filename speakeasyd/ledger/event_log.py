"""The event log: numbers the events of this program and finds those of other programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from sqlalchemy import ColumnElement, Connection, func, select, text

from speakeasyd.domain.event_kinds import EventKind
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
    """An event of a transaction that is not committed yet.

    `keep`: store it in the ledger; otherwise it is only published after the commit.
    """

    event: Event
    keep: bool


class EventLog:
    """Writes events in the transaction that holds the write lock, so their numbers have no gaps."""

    def __init__(self, connection: Connection) -> None:
        self._seen = _find_newest_seq(connection)

    def write_events(self, connection: Connection, news: Sequence[EventDraft]) -> list[Event]:
        """Store the events marked with `keep`.

        Returns all events to publish: first those that other programs have stored, then these.
        """
        kept = [item.event for item in news if item.keep]
        last = _insert_events(connection, kept) if kept else _find_newest_seq(connection)
        before = last - len(kept)
        numbers = count(before + 1)
        own = [replace(item.event, seq=next(numbers)) if item.keep else item.event for item in news]
        return [*self._load_foreign_events(connection, before), *own]

    def mark_committed(self, published: Sequence[Event]) -> None:
        """Record that the events are committed. Call it after the commit only.

        A rolled-back transaction frees its numbers, so they must not count as seen.
        """
        self._seen = max(self._seen, *(event.seq or 0 for event in published), 0)

    def _load_foreign_events(self, connection: Connection, last: int) -> list[Event]:
        if last <= self._seen:
            return []
        return _select_events(connection, events.c.seq.between(self._seen + 1, last))


def load_events_after(connection: Connection, seq: int, *, limit: int) -> list[Event] | None:
    """Return the events after number `seq`.

    None if they cannot be given: deleted already, more than `limit`, or `seq` is not a known
    number.
    """
    oldest, newest = connection.execute(
        select(func.min(events.c.seq), func.max(events.c.seq))
    ).one()
    if seq == (newest or 0):
        return []
    if newest is None or not oldest - 1 <= seq <= newest or newest - seq > limit:
        return None
    return _select_events(connection, events.c.seq > seq)


def _select_events(connection: Connection, condition: ColumnElement[bool]) -> list[Event]:
    """Return the events in order, without kinds that only another version knows."""
    known = events.c.kind.in_(list(EventKind))
    rows = connection.execute(select(events).where(condition, known).order_by(events.c.seq))
    return [
        Event(EventKind(row.kind), row.at, row.seq, row.job_id, json.loads(row.data))
        for row in rows
    ]


def _find_newest_seq(connection: Connection) -> int:
    return connection.execute(select(func.max(events.c.seq))).scalar() or 0


def _insert_events(connection: Connection, kept: Sequence[Event]) -> int:
    """Insert all events with one statement. Returns the number of the last."""
    rows = [(e.at, e.kind, e.job_id, encode_json(e.data)) for e in kept]
    return connection.execute(_KEEP, {"events": encode_json(rows)}).lastrowid
