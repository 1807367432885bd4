"""A connection that can only read: a whole query runs in the thread of an aiosqlite connection.

aiosqlite itself goes to that thread several times for each statement, and each time costs more than
what most statements of the ledger do there.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, Engine

from speakeasyd.ledger.readonly import STEP, QueryBudget
from speakeasyd.thread_group import call_for_future

T = TypeVar("T")


class SnapshotConnection(aiosqlite.Connection):
    """All statements of a query read one snapshot. A budget or an interrupt ends them."""

    def __init__(self, engine: Engine) -> None:
        """`engine`: gives connections that can only read."""
        super().__init__(self._open, iter_chunk_size=1)
        self._thread.daemon = True  # a process that fails must not wait for it
        self._engine = engine
        self._stopped: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, engine: Engine) -> Self:
        """Open the ledger. After an error, too, the thread no longer needs the loop.

        Do not cancel it: SQLite's connection would be closed by the garbage collector.
        """
        connection = cls(engine)
        try:
            await connection
        except BaseException:
            if connection._stopped:
                await connection._stopped
            raise
        return connection

    def stop(self) -> asyncio.Future[Any] | None:
        """Stop the thread; await the future before the loop is closed."""
        self._stopped = super().stop()
        return self._stopped

    async def run_query(self, query: Callable[[Connection], T], budget: QueryBudget) -> T:
        """Return what a query returns. Raises what it raises, also after an interrupt."""
        answer: T = await self._execute(self._run_query, query, budget)  # type: ignore[no-untyped-call]
        return answer

    # --- in the thread

    def _open(self) -> sqlite3.Connection:
        self._connected = self._engine.connect()
        self._connected.detach()  # aiosqlite closes it
        return cast(sqlite3.Connection, self._connected.connection.dbapi_connection)

    def _run_query(self, query: Callable[[Connection], T], budget: QueryBudget) -> T:
        self._conn.set_progress_handler(budget.is_over, STEP)
        with self._connected.begin():
            return call_for_future(query, self._connected)
