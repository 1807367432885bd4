"""The single writer: operations that wait at the same time share one transaction."""

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
from speakeasyd.domain.event_payloads import Payload
from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger import connections
from speakeasyd.ledger.backup import log_files
from speakeasyd.ledger.event_log import EventDraft, EventLog
from speakeasyd.ledger.failures import explain_errors
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.pairing import changing_database, forget_pair
from speakeasyd.thread_group import call_for_future

GROUP = 64  # most operations per transaction
PATIENCE_MS = 100  # milliseconds that a checkpoint waits for readers

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """The argument of an operation: an open transaction, the time, and a list for events."""

    connection: Connection
    now: str
    boot_id: str
    news: list[EventDraft] = field(default_factory=list)

    def record_event(self, payload: Payload, job_id: int | None = None) -> None:
        """Store an event with the change; it is published after the commit."""
        event = Event.of(payload, at=self.now, job_id=job_id)
        self.news.append(EventDraft(event, keep=True))

    def publish_event(self, payload: Payload, job_id: int | None = None) -> None:
        """Publish an event after the commit without storing it."""
        event = Event.of(payload, at=self.now, job_id=job_id)
        self.news.append(EventDraft(event, keep=False))


@dataclass(slots=True)
class _WriteRequest:
    operation: Callable[[Transaction], Any]
    caller: asyncio.Future[Any]
    outcome: Any = None
    error: Exception | None = None

    def _set_result(self) -> None:
        if self.caller.done():  # the caller was cancelled; the operation was carried out anyway
            return
        if self.error:
            self.caller.set_exception(self.error)
        else:
            self.caller.set_result(self.outcome)


class Writer:
    """A task and a thread; only the thread uses the one connection that writes.

    Callers await the outcome of their operation. Cancelling a caller does not affect the database.
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
        self._files: dict[Path, tuple[int, int]] = {}  # device and inode of the opened files
        self._pool = pool
        self._thread = thread
        self._clock = clock
        self._hub = hub
        self._boot_id = boot_id
        self._waiting: list[_WriteRequest] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        # `PRAGMA data_version`: when events of other programs were published, at the last check
        self._published_version = self._detected_version = 0
        self._wal_limit = connections.WAL_BYTES

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: EventHub, boot_id: str) -> Self:
        """Open the ledger for writing. Raises LedgerError if there is no usable ledger."""
        connections.check_schema(path)
        if not boot_id and not find_holder(path.parent):
            # without a daemon, SQLite runs a checkpoint when this connection closes
            forget_pair(path)
        writer = cls(
            path=path,
            pool=connections.create_write_engine(path),
            thread=ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger"),
            clock=clock,
            hub=hub,
            boot_id=boot_id,
        )
        try:
            await writer._run_in_thread(writer._open_connection)
        except DBAPIError as error:
            writer._pool.dispose()
            writer._thread.shutdown()
            raise connections.translate_error(error, path) from error
        writer._task = asyncio.create_task(writer._process_requests(), name="ledger writer")
        return writer

    async def close(self) -> None:
        """Carry out the waiting operations, then close the file. Idempotent."""
        if self._closing or self._task is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task})
        await self._run_in_thread(self._close_connection)
        self._thread.shutdown()

    async def run_operation(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in a transaction, perhaps shared with others. All of it or nothing.

        Raises what the operation raises, LedgerHeld while another program holds the write lock,
        LedgerUnwritable when the disk refuses the write, LedgerError when the ledger is closed or
        damaged.
        """
        self._require_open()
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            _WriteRequest(lambda transaction: operation(transaction, *args, **kwargs), caller)
        )
        self._wake.set()
        return await caller

    async def detect_foreign_commit(self) -> bool:
        """Return whether another program has committed since the last call.

        If so, publishes its events.
        """
        version = await self._run_statements(self._data_version)
        await self._publish_foreign_events(version)
        changed, self._detected_version = self._detected_version != version, version
        return changed

    async def take_lock(self) -> None:
        """Take the write lock for a moment. Publishes the events of other programs.

        Raises LedgerUnwritable while another program holds it or the ledger's files are away.
        """
        await self._publish_foreign_events(await self._run_statements(self._take_lock))

    async def _publish_foreign_events(self, version: int) -> None:
        if version != self._published_version:
            await self.run_operation(lambda _transaction: None)
            self._published_version = version

    async def _run_statements(self, function: Callable[[], T]) -> T:
        """Run a function that uses SQLite without SQLAlchemy. Raises as `run_operation`."""
        self._require_open()
        try:
            return await self._run_in_thread(function)
        except sqlite3.Error as error:
            raise connections.translate_error(error, self._path) from None

    def _require_open(self) -> None:
        if self._closing or not self._task or self._task.done():
            raise LedgerError("the ledger is closed")

    async def _process_requests(self) -> None:
        try:
            while self._waiting or not self._closing:
                if requests := self._waiting[:GROUP]:
                    await self._execute_requests(requests)
                    del self._waiting[: len(requests)]
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:  # if the writer is cancelled, its callers must not wait forever
            for request in self._waiting:
                request.error = LedgerError("the ledger is closed")
                request._set_result()

    async def _execute_requests(self, requests: Sequence[_WriteRequest]) -> None:
        published: list[Event] = []
        try:
            published = await self._run_in_thread(self._execute_transaction, requests)
        except Exception as error:  # noqa: BLE001 - raised in the callers; the writer continues
            explained = connections.translate_error(error, self._path)
            if len(requests) > 1 and not isinstance(explained, LedgerError):
                await self._execute_one_by_one(requests)
                return
            for request in requests:
                request.error = explained
        for request in requests:
            request._set_result()
        self._hub.publish(*published)

    async def _execute_one_by_one(self, requests: Sequence[_WriteRequest]) -> None:
        """Repeat the operations one by one, because one of them broke the shared transaction."""
        for request in requests:
            request.outcome = request.error = None
            await self._execute_requests([request])

    async def _run_in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, partial(function, *args, **kwargs)
        )

    # --- in the writer thread

    def _open_connection(self) -> None:
        self._connection = self._pool.connect()
        with self._connection.begin():
            self._journal = EventLog(self._connection)
            self._published_version = self._detected_version = self._read_pragma("data_version")
            # a change, so that an earlier copy differs from the database from now on
            if self._boot_id:
                self._connection.exec_driver_sql(
                    f"PRAGMA user_version = {secrets.randbelow(2**31)}"
                )
        self._files = {
            file: identity for file in (self._path, self._wal) if (identity := _identify_file(file))
        }
        if self._boot_id:
            self._run_checkpoint()

    def _close_connection(self) -> None:
        if self._boot_id:
            forget_pair(self._path)
        self._connection.close()
        self._pool.dispose()

    def _execute_transaction(self, requests: Sequence[_WriteRequest]) -> list[Event]:
        """Run the operations in one transaction. Returns the events to publish."""
        self._require_files()
        with self._connection.begin():
            published = self._journal.write_events(
                self._connection, self._execute_operations(requests)
            )
        self._journal.mark_committed(published)
        self._require_files()  # what was committed to a deleted file is lost
        self._truncate_wal()
        return published

    def _execute_operations(self, requests: Sequence[_WriteRequest]) -> list[EventDraft]:
        """Run each operation in a savepoint; a single one uses the transaction itself."""
        now = format_utc(self._clock.utc())
        news: list[EventDraft] = []
        for request in requests:
            transaction = Transaction(self._connection, now, self._boot_id)
            if len(requests) == 1:
                request.outcome = call_for_future(request.operation, transaction)
            else:
                self._execute_in_savepoint(request, transaction)
            if not request.error:
                news += transaction.news
        return news

    def _execute_in_savepoint(self, request: _WriteRequest, transaction: Transaction) -> None:
        """Run an operation; if it fails, what it has changed is rolled back."""
        self._execute_raw("SAVEPOINT operation")
        try:
            request.outcome = call_for_future(request.operation, transaction)
        except (OperationalError, sqlite3.OperationalError):
            raise  # on a full disk, SQLite has rolled back everything, savepoints too
        except Exception as error:  # noqa: BLE001 - raised in the caller
            self._execute_raw("ROLLBACK TO operation")
            request.error = error
        self._execute_raw("RELEASE operation")

    def _truncate_wal(self) -> None:
        """Truncate the write-ahead log once it is long.

        If readers prevent it, try again at twice the size.
        """
        if (
            not self._boot_id
            or not self._wal.exists()
            or self._wal.stat().st_size < self._wal_limit
        ):
            return
        self._run_checkpoint()
        self._wal_limit = max(connections.WAL_BYTES, 2 * self._wal.stat().st_size)

    def _run_checkpoint(self) -> None:
        """Run a checkpoint, and truncate the log if no reader needs it."""
        self._read_pragma(f"busy_timeout = {PATIENCE_MS}")
        try:
            with changing_database(self._path):
                self._read_pragma("wal_checkpoint(TRUNCATE)")
        except (sqlite3.Error, OSError) as error:  # nothing is lost: the log only stays long
            log.warning("the ledger's write-ahead log could not be truncated: %s", error)
        self._read_pragma(f"busy_timeout = {connections.BUSY_MS}")

    def _require_files(self) -> None:
        """Check that the ledger's files are still at their paths. Raises LedgerUnwritable.

        SQLite continues to write to a file that was deleted or moved, and those changes would be
        lost.
        """
        for file, opened in self._files.items():
            with explain_errors(self._path):
                found = _identify_file(file)
            if found != opened:
                what = (
                    "another file has taken the place of"
                    if found
                    else "somebody has deleted or moved"
                )
                raise LedgerUnwritable(
                    f"{file.name} {what} while the daemon runs: {file}",
                    hint="Put the same file back, or restart the daemon.",
                )

    def _take_lock(self) -> int:
        """Take the write lock for a moment. Returns the data version before."""
        version = self._data_version()
        self._execute_raw("BEGIN IMMEDIATE")
        self._execute_raw("ROLLBACK")
        return version

    def _data_version(self) -> int:
        self._require_files()
        return self._read_pragma("data_version")

    def _read_pragma(self, pragma: str) -> int:
        """Return the first value of a PRAGMA."""
        return int(self._execute_raw(f"PRAGMA {pragma}").fetchone()[0])

    def _execute_raw(self, sql: str) -> sqlite3.Cursor:
        """Execute a statement without SQLAlchemy, which would take longer than SQLite."""
        driver = cast(sqlite3.Connection, self._connection.connection.driver_connection)
        return driver.execute(sql)


def _identify_file(file: Path) -> tuple[int, int] | None:
    """Return device and inode; None if there is no file."""
    try:
        state = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_dev, state.st_ino
