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

from speakeasyd.clock import Clock, iso
from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.events import Event, Hub
from speakeasyd.ledger import engine
from speakeasyd.ledger.backup import log_files
from speakeasyd.ledger.journal import Journal, News
from speakeasyd.ledger.lock import holder
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
    news: list[News] = field(default_factory=list)

    def tell(self, kind: str, job_id: int | None = None, /, **data: object) -> None:
        """An event to be kept with the change, and published once that is committed."""
        self.news.append(News(Event(kind=kind, at=self.now, job_id=job_id, data=data), keep=True))

    def mention(self, kind: str, job_id: int | None = None, /, **data: object) -> None:
        """Passing news: published after the commit, kept nowhere."""
        self.news.append(News(Event(kind=kind, at=self.now, job_id=job_id, data=data), keep=False))


@dataclass(slots=True)
class _Order:
    operation: Callable[[Transaction], Any]
    caller: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None

    def answer(self) -> None:
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
        self, *, path: Path, pool: Engine, thread: ThreadPoolExecutor, clock: Clock, hub: Hub, boot_id: str
    ) -> None:
        self._path = path
        self._wal = log_files(path)[0]
        self._files: dict[Path, tuple[int, int]] = {}  # device and inode of what has been opened
        self._pool = pool
        self._thread = thread
        self._clock = clock
        self._hub = hub
        self._boot_id = boot_id
        self._waiting: list[_Order] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._version: int | None = None  # of the data, when it was last asked for
        self._wal_limit = engine.WAL_BYTES

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: Hub, boot_id: str) -> Self:
        """Raises LedgerError when there is no ledger that can be used."""
        engine.check(path)
        if not boot_id and not holder(path.parent):
            forget_pair(path)  # without a daemon, SQLite moves the log into the database when this one closes
        writer = cls(
            path=path,
            pool=engine.writer(path),
            thread=ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger"),
            clock=clock,
            hub=hub,
            boot_id=boot_id,
        )
        try:
            await writer._in_thread(writer._connect)
        except DBAPIError as error:
            writer._pool.dispose()
            writer._thread.shutdown()
            raise engine.explained(error, path) from error
        writer._task = asyncio.create_task(writer._serve(), name="ledger writer")
        return writer

    async def close(self) -> None:
        """Carry out what still waits, then let go of the file. Idempotent."""
        if self._closing or self._task is None:
            return
        self._closing = True
        self._wake.set()
        await self._task
        await self._in_thread(self._disconnect)
        self._thread.shutdown()

    async def run(self, operation: Callable[Concatenate[Transaction, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Have `operation` carried out in a transaction of its own or one shared with others: all of it or nothing.

        Raises what the operation raises, or LedgerUnwritable when the disk or another program stands in the way.
        """
        if self._closing:
            raise LedgerError("the ledger is closed")
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Order(lambda transaction: operation(transaction, *args, **kwargs), caller))
        self._wake.set()
        return await caller

    async def foreign_changed(self) -> bool:
        """Whether another program has written since last asked. If so, its events are published here too."""
        version = await self._in_thread(self._data_version)
        changed = self._version not in {None, version}
        if changed:
            await self.run(lambda _transaction: None)
        self._version = version
        return changed

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            orders, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            if orders:
                await self._carry_out(orders)
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _carry_out(self, orders: Sequence[_Order]) -> None:
        published: list[Event] = []
        try:
            published = await self._in_thread(self._transact, orders)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers hear it, and the writer goes on
            explained = engine.explained(error, self._path)
            if len(orders) > 1 and not isinstance(explained, LedgerError):
                await self._carry_out_singly(orders)
                return
            for order in orders:
                order.error = explained
        for order in orders:
            order.answer()
        self._hub.publish(*published)

    async def _carry_out_singly(self, orders: Sequence[_Order]) -> None:
        """One of these spoils the transaction that they share: the others must not suffer for it."""
        for order in orders:
            order.outcome = order.error = None
            await self._carry_out([order])

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args, **kwargs))

    # --- in the thread

    def _connect(self) -> None:
        self._connection = self._pool.connect()
        with self._connection.begin():
            self._journal = Journal(self._connection)
            if self._boot_id:  # a change, so that no copy of earlier is taken for the database as it is from now on
                self._connection.exec_driver_sql(f"PRAGMA user_version = {secrets.randbelow(2**31)}")
        self._files = {file: identity for file in (self._path, self._wal) if (identity := _identify(file))}
        if self._boot_id:
            self._checkpoint()

    def _disconnect(self) -> None:
        if self._boot_id:
            forget_pair(self._path)
        self._connection.close()
        self._pool.dispose()

    def _transact(self, orders: Sequence[_Order]) -> list[Event]:
        """All of these in one transaction. Returns the events to be published."""
        self._require_files()
        with self._connection.begin():
            published = self._journal.write(self._connection, self._perform(orders))
        self._journal.committed(published)
        self._require_files()  # what was committed to a file that is gone by then is lost
        self._shorten_log()
        return published

    def _perform(self, orders: Sequence[_Order]) -> list[News]:
        """Each operation in a savepoint of its own, unless it is alone: then the transaction itself is taken back."""
        now = iso(self._clock.utc())
        news: list[News] = []
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

    def _shorten_log(self) -> None:
        """Cut the write-ahead log once it is long; if readers stand in the way, again at twice the size."""
        if not self._boot_id or not self._wal.exists() or self._wal.stat().st_size < self._wal_limit:
            return
        self._checkpoint()
        self._wal_limit = max(engine.WAL_BYTES, 2 * self._wal.stat().st_size)

    def _checkpoint(self) -> None:
        """Move the log into the database, and make it empty if no reader needs it."""
        self._pragma(f"busy_timeout = {PATIENCE_MS}")
        try:
            with changing_database(self._path):
                self._pragma("wal_checkpoint(TRUNCATE)")
        except (sqlite3.Error, OSError) as error:  # everything is safe in the log: it only stays long
            log.warning("the ledger's log could not be shortened: %s", error)
        self._pragma(f"busy_timeout = {engine.BUSY_MS}")

    def _require_files(self) -> None:
        """Raises LedgerUnwritable once a file of the ledger is no longer at its path.

        SQLite goes on writing to a file that was deleted or moved, and nobody would ever find what it wrote.
        """
        for file, opened in self._files.items():
            if (found := _identify(file)) != opened:
                what = "another file has taken the place of" if found else "somebody has deleted or moved"
                raise LedgerUnwritable(
                    f"{what} {file.name} while the daemon runs: {file}",
                    hint="Put the same file back, or start the daemon again.",
                )

    def _data_version(self) -> int:
        self._require_files()
        return self._pragma("data_version")

    def _pragma(self, pragma: str) -> int:
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
