"""A connection of aiosqlite that can only read, with one trip to its thread for each statement.

aiosqlite itself goes to the thread of the connection to create a cursor, to execute, to fetch and to
close. Each trip costs more than what most statements of the ledger do there.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiosqlite

from speakeasyd.ledger.readonly import STEP, QueryBudget

P = ParamSpec("P")
T = TypeVar("T")

ROWS = 500  # rows that come with the trip that executes a statement


class SnapshotConnection(aiosqlite.Connection):
    """Statements up to the next rollback read one snapshot. A budget ends them."""

    def __init__(self, path: Path, pragmas: Sequence[str]) -> None:
        super().__init__(partial(self._open, path, pragmas), iter_chunk_size=ROWS)
        self._thread.daemon = True  # a process that fails must not wait for it
        self.budget: QueryBudget | None = None

    async def open(self) -> None:
        """Open the file. If the caller is cancelled meanwhile, it is closed once it is open."""
        opening = asyncio.ensure_future(self)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._stop_if_open)
            raise

    def _stop_if_open(self, opening: asyncio.Future[aiosqlite.Connection]) -> None:
        if not opening.cancelled() and not opening.exception():
            self.stop()

    def cursor(self) -> "SnapshotCursor":  # type: ignore[override]
        return SnapshotCursor(self, self._conn.cursor())

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        outcome: T = await self._execute(function, *args, **kwargs)  # type: ignore[no-untyped-call]
        return outcome

    async def rollback(self) -> None:
        """End the snapshot. Without the thread: all statements are complete, and nothing waits."""
        self._conn.rollback()

    def _open(self, path: Path, pragmas: Sequence[str]) -> sqlite3.Connection:
        """Return an open connection. Runs in the thread."""
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in pragmas:
            connection.execute(pragma)
        connection.set_progress_handler(self._is_over, STEP)
        return connection

    def _is_over(self) -> bool:
        return self.budget is not None and self.budget.is_over()


class SnapshotCursor(aiosqlite.Cursor):
    """Executes a statement and fetches its first rows in one trip."""

    def __init__(self, connection: SnapshotConnection, cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._connection = connection
        self._rows: list[Any] = []
        self._complete = True  # whether `_rows` has all rows that were not fetched yet

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> "SnapshotCursor":
        self._rows = await self._connection.run_in_thread(
            self._start_statement, sql, parameters or ()
        )
        self._complete = len(self._rows) < ROWS
        return self

    def _start_statement(self, sql: str, parameters: Any) -> list[Any]:
        """Execute a statement, in a transaction. Runs in the thread."""
        if not self._cursor.connection.in_transaction:
            self._cursor.connection.execute("BEGIN")
        self._cursor.execute(sql, parameters)
        return self._cursor.fetchmany(ROWS)

    async def fetchone(self) -> Any:
        return next(iter(await self.fetchmany(1)), None)

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        if not self._rows and not self._complete:
            self._rows = await self._connection.run_in_thread(self._cursor.fetchmany, ROWS)
            self._complete = len(self._rows) < ROWS
        wanted = ROWS if size is None else size
        rows, self._rows = self._rows[:wanted], self._rows[wanted:]
        return rows

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        if not self._complete:
            self._complete = True
            rows += await self._connection.run_in_thread(self._cursor.fetchall)
        return rows

    async def close(self) -> None:
        """Close the statement; one that is complete is closed already."""
        self._rows = []
        if not self._complete:
            self._complete = True
            await self._connection.run_in_thread(self._cursor.close)
