"""Queries of clients: in threads and on connections of their own, with a time limit.

The daemon's own work has other readers, so no client can block it. A query is interrupted when its
time is over, when its client has disconnected (the waiting task is cancelled), and when the daemon
stops.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection

from speakeasyd.domain.job import JobId
from speakeasyd.domain.transcript import Transcript
from speakeasyd.errors import LedgerBusy, LedgerError
from speakeasyd.events import Event
from speakeasyd.ledger import connections, deliveries, event_log, publication, search
from speakeasyd.ledger.readonly import (
    Parameters,
    QueryBudget,
    Row,
    explain_interrupt,
    limited,
    query_readonly,
)
from speakeasyd.ledger.search import EVERYTHING, SearchFilters, SearchHit

INTERRUPT_S = 0.1  # seconds between two attempts to interrupt a query whose time is over
WAITING = 64  # queries that may wait for a thread

P = ParamSpec("P")
T = TypeVar("T")


class ClientReaders:
    """A few threads for one kind of query, with a time limit of `limit_s` seconds per query.

    Every query may raise QueryTimeout, LedgerBusy if too many queries wait already, or LedgerError.
    """

    def __init__(self, path: Path, *, threads: int, limit_s: float) -> None:
        self._path = path
        self._limit_s = limit_s
        self._most = threads + WAITING
        self._threads = ThreadPoolExecutor(threads, "ledger client")
        self._connections = connections.create_read_engine(path, size=threads)
        self._under_way: set[QueryBudget] = set()
        self._closed = False

    async def close(self) -> None:
        """Interrupt the running queries and end the threads. Idempotent."""
        self._closed = True
        for budget in self._under_way:
            budget.cancel()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._connections.dispose()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function with queries in one of the threads, within the time limit.

        Raises QueryTimeout, LedgerBusy, LedgerError, or what the function raises.
        """
        if self._closed:
            raise LedgerError("the ledger is closed")
        if len(self._under_way) >= self._most:
            raise LedgerBusy("too many queries at once", hint="Try again in a moment.")
        budget = QueryBudget(self._limit_s)
        self._under_way.add(budget)
        loop = asyncio.get_running_loop()
        loop.call_later(self._limit_s, self._end_overdue, budget)
        context = copy_context()
        call = partial(context.run, limited, budget, partial(function, *args, **kwargs))
        try:
            return await loop.run_in_executor(self._threads, call)
        except asyncio.CancelledError:
            budget.cancel()
            self._end_overdue(budget)
            raise
        finally:
            if budget.finished or not budget.started:
                self._under_way.discard(budget)

    def _end_overdue(self, budget: QueryBudget) -> None:
        """Interrupt a query whose time is over, repeatedly until it has ended."""
        if budget.finished:
            self._under_way.discard(budget)
        elif budget in self._under_way:
            if budget.is_over():
                budget.interrupt()
            asyncio.get_running_loop().call_later(INTERRUPT_S, self._end_overdue, budget)

    async def read(
        self,
        query: Callable[Concatenate[Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query function on a connection of this pool."""
        return await self.run(self._answer, lambda connection: query(connection, *args, **kwargs))

    def _answer(self, query: Callable[[Connection], T]) -> T:
        """Run the query in a thread."""
        budget = QueryBudget.current()
        try:
            with self._connections.connect() as connection:
                driver = cast(sqlite3.Connection, connection.connection.driver_connection)
                with budget.applied_to(driver):
                    return query(connection)
        except Exception as error:
            interrupt = explain_interrupt(error, budget)
            raise interrupt or connections.translate_error(error, self._path) from error

    # --- queries

    async def query_rows(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Return the rows of a user's query.

        Raises QueryError if it is wrong or does more than read, QueryTimeout, LedgerBusy.
        """
        return await self.run(query_readonly, self._path, sql, params)

    async def search_text(
        self, words: str, *, limit: int = 20, filters: SearchFilters = EVERYTHING
    ) -> list[SearchHit]:
        """Return the segments that contain these words, best first: see `ledger.search`.

        Raises QueryError, QueryTimeout, LedgerBusy, LedgerError.
        """
        return await self.read(search.search_text, words, limit, filters)

    async def load_transcript(self, job_id: JobId) -> Transcript:
        """Return the current transcript of a job, finished or growing.

        Raises LedgerError for an unknown job.
        """
        return await self.read(publication.load_transcript, job_id)

    async def leading_text(self, job_id: JobId) -> str:
        """Return the text of a job from its beginning up to the first missing chunk."""
        return await self.read(publication.read_leading_text, job_id)

    async def newest_event(self) -> int:
        return await self.read(deliveries.find_newest_seq)

    async def events_after(self, seq: int, *, limit: int) -> list[Event] | None:
        """Return the events after number `seq`.

        None if they cannot be given: deleted already, more than `limit`, or `seq` is not a known
        number.
        """
        return await self.read(event_log.load_events_after, seq, limit=limit)
