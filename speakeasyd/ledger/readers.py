"""Queries of the daemon: in snapshots, on connections that can only read.

A query is interrupted when its task is cancelled (its client has disconnected), when its time is
over, and when the daemon stops.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from speakeasyd.errors import LedgerBusy, LedgerError
from speakeasyd.ledger import connections
from speakeasyd.ledger.readonly import QueryBudget, explain_interrupt
from speakeasyd.ledger.snapshot_connection import SnapshotConnection

INTERRUPT_S = 0.1  # seconds between two attempts to interrupt a query

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _RunningQuery:
    budget: QueryBudget
    waits: bool = True  # for its turn
    connection: SnapshotConnection | None = None  # while statements may run on it
    timer: asyncio.TimerHandle | None = None
    interrupter: asyncio.Task[None] | None = None

    def begin_turn(self) -> None:
        """Start the time now: the query has waited. Call it in the query's task."""
        self.waits = False
        self.budget.start()
        task = asyncio.current_task()
        if task and self.budget.limit_s is not None:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(self.budget.limit_s, self.end, task)

    def end(self, task: asyncio.Task[Any]) -> None:
        """Interrupt the statements; a query that waits for its turn is cancelled."""
        if self.waits:
            task.cancel()
        elif self.interrupter is None and not task.done():
            self.interrupter = asyncio.create_task(self._interrupt_repeatedly())

    def stop_interrupting(self) -> None:
        for interrupting in (self.timer, self.interrupter):
            if interrupting:
                interrupting.cancel()

    async def _interrupt_repeatedly(self) -> None:
        """Between two statements, an interrupt has no effect."""
        while True:
            if self.connection is not None:
                await self.connection.interrupt()
            await asyncio.sleep(INTERRUPT_S)


class Readers:
    """A few connections for one kind of reader, so that no other kind can hold them.

    `limit_s`: seconds that a query may take; None: any. `waiting`: queries that may wait for a
    connection; None: any number.
    """

    def __init__(
        self, path: Path, *, size: int, limit_s: float | None = None, waiting: int | None = None
    ) -> None:
        self._path = path
        self._limit_s = limit_s
        self._most = None if waiting is None else size + waiting
        self._engine = connections.create_read_engine(path)
        self._idle: list[SnapshotConnection] = []
        self._free = asyncio.Semaphore(size)
        self._running: dict[asyncio.Task[Any], _RunningQuery] = {}
        self._closed = False

    async def close(self) -> None:
        """Interrupt the running queries, then close the connections. Idempotent."""
        self._closed = True
        tasks = dict(self._running)
        for task, running in tasks.items():
            running.budget.cancel()
            running.end(task)
        if tasks:
            await asyncio.wait(tasks)
        await self._close_idle()

    async def read(
        self,
        query: Callable[Concatenate[Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query on a snapshot of the ledger. Cancel the caller to interrupt it.

        Raises what the query raises, QueryTimeout, LedgerBusy if too many queries wait already,
        LedgerError.
        """
        if self._closed:
            raise LedgerError("the ledger is closed")
        if self._most is not None and len(self._running) >= self._most:
            raise LedgerBusy("too many queries at once", hint="Try again in a moment.")
        running = _RunningQuery(QueryBudget(self._limit_s))
        task = asyncio.create_task(
            self._run_query(running, lambda connection: query(connection, *args, **kwargs))
        )
        self._running[task] = running
        task.add_done_callback(self._forget_query)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            running.budget.cancel()
            running.end(task)
            raise
        if task.cancelled():  # by `close`
            raise LedgerError("the ledger is closed")
        return task.result()

    def _forget_query(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task).stop_interrupting()
        if not task.cancelled():
            task.exception()  # retrieved: asyncio logs no error of a query that nobody awaits

    async def _run_query(self, running: _RunningQuery, query: Callable[[Connection], T]) -> T:
        try:
            async with self._free:
                running.begin_turn()
                try:
                    return await self._run_connected(running, query)
                except Exception as error:
                    if not connections.is_io_error(error):
                        raise
                await self._close_idle()  # the ledger's files were away, and may be back
                return await self._run_connected(running, query)
        except Exception as error:
            interrupt = explain_interrupt(error, running.budget)
            raise interrupt or connections.translate_error(error, self._path) from error

    async def _run_connected(self, running: _RunningQuery, query: Callable[[Connection], T]) -> T:
        connection = self._idle.pop() if self._idle else await SnapshotConnection.open(self._engine)
        running.connection = connection
        try:
            answer = await connection.run_query(query, running.budget)
        except BaseException:
            running.connection = None
            # The error may keep a statement open, and that would keep the snapshot
            await connection.close()
            raise
        running.connection = None
        self._idle.append(connection)
        return answer

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()
