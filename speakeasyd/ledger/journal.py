"""The order of events: those of this program and, as soon as they are noticed, those of others on the same ledger."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, insert, select

from speakeasyd.events import Event
from speakeasyd.ledger.tables import events


@dataclass(frozen=True, slots=True)
class News:
    """An event of a transaction in progress; `keep` it in the ledger, or only publish it after the commit."""

    event: Event
    keep: bool


class Journal:
    """Numbers events and writes them, inside the transaction that holds the write lock: no number is given twice."""

    def __init__(self, connection: Connection) -> None:
        self._seen: int = connection.scalar(select(func.max(events.c.seq))) or 0

    def write(self, connection: Connection, news: Sequence[News]) -> list[Event]:
        """Keep what is to be kept. Returns all that is to be published, events of other programs first."""
        foreign = self._foreign(connection)
        seq = foreign[-1].seq or 0 if foreign else self._seen
        told: list[Event] = []
        for item in news:
            seq += item.keep
            told.append(replace(item.event, seq=seq) if item.keep else item.event)
        kept = [event for event in told if event.seq is not None]
        if kept:
            connection.execute(insert(events), [_row(event) for event in kept])
        return foreign + told

    def committed(self, published: Sequence[Event]) -> None:
        """Nothing counts as seen before it is durable: a transaction that was taken back gives its numbers back."""
        self._seen = max((event.seq or 0 for event in published), default=0) or self._seen

    def _foreign(self, connection: Connection) -> list[Event]:
        newer = select(events).where(events.c.seq > self._seen).order_by(events.c.seq)
        return [
            Event(kind=row.kind, at=row.at, seq=row.seq, job_id=row.job_id, data=json.loads(row.data))
            for row in connection.execute(newer)
        ]


def _row(event: Event) -> dict[str, object]:
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "job_id": event.job_id,
        "data": json.dumps(event.data, ensure_ascii=False),
    }
