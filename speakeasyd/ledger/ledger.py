"""The interface of the ledger: reads, writes, and the changes that take several transactions.

An operation is a function whose first argument is a `Transaction`; a query is one whose first
argument is a connection. The other modules define them; callers hand them to `write` and `read`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.job import JobId
from speakeasyd.events import EventHub
from speakeasyd.ledger import claims, maintenance, transitions, user_changes
from speakeasyd.ledger.readers import Readers
from speakeasyd.ledger.readonly import QUERY_S
from speakeasyd.ledger.writer import Transaction, Writer

POSTPONED = 5000  # jobs per transaction, so that other writers do not wait long
READERS = 3  # connections for the daemon's own work
WAITING = 64  # queries of clients that may wait for a connection
SEARCH_S = 5.0  # seconds that a search may take
PROBE_S = 5.0  # seconds that a probe waits for the ledger

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """The durable job queue.

    Changes go through one writer and are durable when their call returns. Queries never wait for
    them. The daemon opens the ledger with its `boot_id`; commands open it without one, and neither
    claim jobs nor recover claims. Every call may raise LedgerUnwritable (the disk or another
    program refuses the write) or LedgerError. Operations with a claim token raise ClaimLost if the
    claim is lost.

    `clients`, `searches` and `probes` read with a time limit, on connections of their own.
    """

    def __init__(self, *, path: Path, writer: Writer, clock: Clock) -> None:
        self.path = path
        self._writer = writer
        self._clock = clock
        self._own = Readers(path, size=READERS)
        self.clients = Readers(path, size=4, limit_s=QUERY_S, waiting=WAITING)
        self.searches = Readers(path, size=2, limit_s=SEARCH_S, waiting=WAITING)
        self.probes = Readers(path, size=1, limit_s=PROBE_S, waiting=WAITING)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: EventHub, boot_id: str = "") -> Self:
        """Open a ledger that `migrate_ledger` has upgraded. Raises LedgerError if there is none."""
        writer = await Writer.open(path, clock=clock, hub=hub, boot_id=boot_id)
        return cls(path=path, writer=writer, clock=clock)

    async def close(self) -> None:
        """Carry out the waiting changes, then close the file. Idempotent."""
        for readers in (self.clients, self.searches, self.probes, self._own):
            await readers.close()
        await self._writer.close()

    async def write(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in a transaction of the writer: see `Writer.run_operation`."""
        return await self._writer.run_operation(operation, *args, **kwargs)

    async def read(
        self,
        query: Callable[Concatenate[Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query of the daemon's own work on a snapshot: see `Readers.read`."""
        return await self._own.read(query, *args, **kwargs)

    def now(self) -> str:
        """Return the current time as the ledger stores times."""
        return format_utc(self._clock.utc())

    async def take_lock(self) -> None:
        """Take the write lock for a moment, and publish events: see `Writer.take_lock`."""
        await self._writer.take_lock()

    async def detect_foreign_commit(self) -> bool:
        """Return whether another program has committed since the last call.

        If so, publishes its events.
        """
        return await self._writer.detect_foreign_commit()

    # --- changes in several transactions, so that other writers do not wait long

    async def retry_jobs(self, ids: Sequence[int]) -> list[JobId]:
        """Retry ended jobs. Returns the retried jobs.

        A job that is superseded by a later job of its path is not retried.
        """
        return [
            job_id
            for part in transitions.split_into_slices(ids)
            for job_id in await self.write(user_changes.retry_jobs, part)
        ]

    async def cancel_jobs(self, ids: Sequence[int]) -> list[JobId]:
        """Cancel jobs that have not ended. Returns the cancelled jobs."""
        return [
            job_id
            for part in transitions.split_into_slices(ids)
            for job_id in await self.write(user_changes.cancel_jobs, part)
        ]

    async def postpone_jobs(self, model: str, *, available_at: str, code: str, error: str) -> int:
        """Postpone every pending job for `model` until a time. Returns how many.

        `code` and `error` say why.
        """
        total = 0
        postpone = partial(
            claims.postpone_jobs, available_at=available_at, code=code, error=error, limit=POSTPONED
        )
        while count := await self.write(postpone, model):
            total += count
        return total

    async def prune_history(self, *, jobs_before: str | None, events_before: str) -> int:
        """Delete jobs that ended before a time, and events from before another time.

        Returns the number of deleted jobs.
        """
        removed = 0
        while jobs_before and (count := await self.write(maintenance.delete_old_jobs, jobs_before)):
            removed += count
        await self.write(maintenance.delete_old_events, events_before)
        return removed
