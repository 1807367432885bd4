"""The single writer: operations that wait together are committed together."""

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from speakeasyd.clock import Clock, format_utc
from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger import connections
from speakeasyd.ledger.backup import log_files
from speakeasyd.ledger.event_log import EventDraft, EventLog
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.pairing import changing_database, forget_pair

GROUP = 64  # operations in one transaction at most
PATIENCE_MS = 100  # milliseconds to wait for readers before the log stays as long as it is

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """What an operation is given: a connection inside a transaction, one reading of the clock, and a place for news."""

    connection: Connection
    now: str
    boot_id: str
    news: list[EventDraft] = field(default_factory=list)

    def record_event(self, kind: str, job_id: int | None = None, /, **data: object) -> None:
        """An event to be kept with the change, and published once that is committed."""
        self.news.append(
            EventDraft(Event(kind=kind, at=self.now, job_id=job_id, data=data), keep=True)
        )

    def publish_event(self, kind: str, job_id: int | None = None, /, **data: object) -> None:
        """Passing news: published after the commit, kept nowhere."""
        self.news.append(
            EventDraft(Event(kind=kind, at=self.now, job_id=job_id, data=data), keep=False)
        )


@dataclass(slots=True)
class _WriteRequest:
    operation: Callable[[Transaction], Any]
    caller: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None

    def _set_result(self) -> None:
        if self.caller.done():  # its task was cancelled; the operation was carried out all the same
            return
        if self.error:
            self.caller.set_exception(self.error)
        else:
            self.caller.set_result(self.outcome)


class Writer:
    """A task, and a thread behind it that alone touches the one connection that writes.

    Callers await the outcome of their own operation. Cancelling one never reaches the database.
    """

    def __init__(
        self,
        *,
        path: Path,
        pool: Engine,
        thread: ThreadPoolExecutor,
        clock: Clock,
        hub: EventHub,
        boot_id: str,
    ) -> None:
        self._path = path
        self._wal = log_files(path)[0]
        self._files: dict[Path, tuple[int, int]] = {}  # device and inode of what has been opened
        self._pool = pool
        self._thread = thread
        self._clock = clock
        self._hub = hub
        self._boot_id = boot_id
        self._waiting: list[_WriteRequest] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._version: int | None = None  # of the data, when it was last asked for
        self._wal_limit = connections.WAL_BYTES

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: EventHub, boot_id: str) -> Self:
        """Raises LedgerError when there is no ledger that can be used."""
        connections.check_schema(path)
        if not boot_id and not find_holder(path.parent):
            forget_pair(
                path
            )  # without a daemon, SQLite moves the log into the database when this one closes
        writer = cls(
            path=path,
            pool=connections.create_write_engine(path),
            thread=ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger"),
            clock=clock,
            hub=hub,
            boot_id=boot_id,
        )
        try:
            await writer._run_in_thread(writer._connect)
        except DBAPIError as error:
            writer._pool.dispose()
            writer._thread.shutdown()
            raise connections.translate_error(error, path) from error
        writer._task = asyncio.create_task(writer._process_requests(), name="ledger writer")
        return writer

    async def close(self) -> None:
        """Carry out what still waits, then let go of the file. Idempotent."""
        if self._closing or self._task is None:
            return
        self._closing = True
        self._wake.set()
        await self._task
        await self._run_in_thread(self._disconnect)
        self._thread.shutdown()

    async def run_operation(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Have `operation` carried out in a transaction of its own or one shared with others: all of it or nothing.

        Raises what the operation raises, or LedgerUnwritable when the disk or another program stands in the way.
        """
        if self._closing:
            raise LedgerError("the ledger is closed")
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            _WriteRequest(lambda transaction: operation(transaction, *args, **kwargs), caller)
        )
        self._wake.set()
        return await caller

    async def detect_foreign_commit(self) -> bool:
        """Whether another program has written since last asked. If so, its events are published here too."""
        version = await self._run_in_thread(self._data_version)
        changed = self._version not in {None, version}
        if changed:
            await self.run_operation(lambda _transaction: None)
        self._version = version
        return changed

    async def _process_requests(self) -> None:
        while self._waiting or not self._closing:
            orders, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            if orders:
                await self._execute_requests(orders)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _execute_requests(self, orders: Sequence[_WriteRequest]) -> None:
        published: list[Event] = []
        try:
            published = await self._run_in_thread(self._execute_transaction, orders)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers hear it, and the writer goes on
            explained = connections.translate_error(error, self._path)
            if len(orders) > 1 and not isinstance(explained, LedgerError):
                await self._carry_out_singly(orders)
                return
            for order in orders:
                order.error = explained
        for order in orders:
            order._set_result()
        self._hub.publish(*published)

    async def _carry_out_singly(self, orders: Sequence[_WriteRequest]) -> None:
        """One of these spoils the transaction that they share: the others must not suffer for it."""
        for order in orders:
            order.outcome = order.error = None
            await self._execute_requests([order])

    async def _run_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, partial(function, *args, **kwargs)
        )

    # --- in the thread

    def _connect(self) -> None:
        self._connection = self._pool.connect()
        with self._connection.begin():
            self._journal = EventLog(self._connection)
            if self._boot_id:  # a change, so that no copy of earlier is taken for the database as it is from now on
                self._connection.exec_driver_sql(
                    f"PRAGMA user_version = {secrets.randbelow(2**31)}"
                )
        self._files = {
            file: identity for file in (self._path, self._wal) if (identity := _identify(file))
        }
        if self._boot_id:
            self._run_checkpoint()

    def _disconnect(self) -> None:
        if self._boot_id:
            forget_pair(self._path)
        self._connection.close()
        self._pool.dispose()

    def _execute_transaction(self, orders: Sequence[_WriteRequest]) -> list[Event]:
        """All of these in one transaction. Returns the events to be published."""
        self._require_files()
        with self._connection.begin():
            published = self._journal.write_events(
                self._connection, self._execute_operations(orders)
            )
        self._journal.mark_committed(published)
        self._require_files()  # what was committed to a file that is gone by then is lost
        self._truncate_wal()
        return published

    def _execute_operations(self, orders: Sequence[_WriteRequest]) -> list[EventDraft]:
        """Each operation in a savepoint of its own, unless it is alone: then the transaction itself is taken back."""
        now = format_utc(self._clock.utc())
        news: list[EventDraft] = []
        for order in orders:
            transaction = Transaction(self._connection, now, self._boot_id)
            savepoint = self._connection.begin_nested() if len(orders) > 1 else None
            try:
                order.outcome = order.operation(transaction)
            except Exception as error:
                if savepoint is None or isinstance(error, OperationalError):
                    raise  # after a full disk, SQLite itself has taken back everything, savepoints too
                savepoint.rollback()
                order.error = error
            else:
                if savepoint:
                    savepoint.commit()
                news += transaction.news
        return news

    def _truncate_wal(self) -> None:
        """Cut the write-ahead log once it is long; if readers stand in the way, again at twice the size."""
        if (
            not self._boot_id
            or not self._wal.exists()
            or self._wal.stat().st_size < self._wal_limit
        ):
            return
        self._run_checkpoint()
        self._wal_limit = max(connections.WAL_BYTES, 2 * self._wal.stat().st_size)

    def _run_checkpoint(self) -> None:
        """Move the log into the database, and make it empty if no reader needs it."""
        self._read_pragma(f"busy_timeout = {PATIENCE_MS}")
        try:
            with changing_database(self._path):
                self._read_pragma("wal_checkpoint(TRUNCATE)")
        except (
            sqlite3.Error,
            OSError,
        ) as error:  # everything is safe in the log: it only stays long
            log.warning("the ledger's log could not be shortened: %s", error)
        self._read_pragma(f"busy_timeout = {connections.BUSY_MS}")

    def _require_files(self) -> None:
        """Raises LedgerUnwritable once a file of the ledger is no longer at its path.

        SQLite goes on writing to a file that was deleted or moved, and nobody would ever find what it wrote.
        """
        for file, opened in self._files.items():
            if (found := _identify(file)) != opened:
                what = (
                    "another file has taken the place of"
                    if found
                    else "somebody has deleted or moved"
                )
                raise LedgerUnwritable(
                    f"{what} {file.name} while the daemon runs: {file}",
                    hint="Put the same file back, or start the daemon again.",
                )

    def _data_version(self) -> int:
        self._require_files()
        return self._read_pragma("data_version")

    def _read_pragma(self, pragma: str) -> int:
        """The first value of a PRAGMA, asked outside of any transaction."""
        driver = cast(sqlite3.Connection, self._connection.connection.driver_connection)
        return int(driver.execute(f"PRAGMA {pragma}").fetchone()[0])


def _identify(file: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is nothing."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino
