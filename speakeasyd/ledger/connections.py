"""The connections to the ledger: one that writes, a few that can only read.

The one that writes is synchronous and belongs to the writer's thread: a transaction is several
statements that wait only for the disk. Those that read are asynchronous, because a query whose
client has disconnected has to be interrupted.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from speakeasyd.errors import LedgerError
from speakeasyd.ledger.failures import explain_errors, explain_sqlite_error
from speakeasyd.ledger.pairing import refuse_foreign_log
from speakeasyd.ledger.snapshot_connection import SnapshotConnection

BUSY_MS = 5000  # milliseconds to wait for another program's write
WAL_BYTES = 32 * 1024 * 1024  # bytes of the write-ahead log before a checkpoint


def create_write_engine(path: Path) -> Engine:
    """Return an engine with one connection. Every transaction takes the write lock when it begins.

    So no transaction fails half-way because the lock is taken. SQLite's automatic checkpoints are
    off: the daemon runs them, see `Writer`; other programs leave them to the daemon, since two
    checkpoints at once can corrupt the database in SQLite before 3.51.3.
    """
    url = URL.create(
        "sqlite", database=path.absolute().as_uri(), query={"uri": "true", "mode": "rw"}
    )
    # by default, the driver would begin deferred transactions
    engine = create_engine(url, connect_args={"isolation_level": None}, pool_size=1, max_overflow=0)
    pragmas = _list_pragmas(
        "synchronous = FULL",  # a committed change must survive a power failure
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {WAL_BYTES}",
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(pragma).close()

    @event.listens_for(engine, "begin")
    def _begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def create_read_engine(path: Path, *, size: int) -> AsyncEngine:
    """Return an engine with connections that cannot write. Every transaction is a snapshot.

    In WAL mode readers never wait for the writer, and the writer never waits for readers.
    """
    pragmas = _list_pragmas("query_only = ON", "wal_autocheckpoint = 0")

    async def connect() -> SnapshotConnection:
        connection = SnapshotConnection(path, pragmas)
        await connection.open()
        return connection

    return create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=connect,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=size,
        max_overflow=0,
    )


def _list_pragmas(*pragmas: str) -> list[str]:
    common = (f"busy_timeout = {BUSY_MS}", "foreign_keys = ON")
    return [f"PRAGMA {pragma}" for pragma in (*common, *pragmas)]


def check_schema(path: Path) -> None:
    """Check that the ledger can be opened and has the schema of this version.

    Raises LedgerError, or one of its subclasses that says why the ledger cannot be opened.
    """
    with explain_errors(path):
        path.stat()
    refuse_foreign_log(path)
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        ) as connection:
            connection.execute("SELECT seq FROM events LIMIT 1")
    except sqlite3.Error as error:
        other_version = LedgerError(
            f"{path} is not a ledger of this version: {error}",
            hint="The daemon upgrades it when it starts.",
        )
        raise explain_sqlite_error(error, path) or other_version from error


def is_io_error(error: DBAPIError) -> bool:
    """Return whether the files of the connection cannot be read, or are not the ledger's any more."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def translate_error(error: Exception, path: Path) -> Exception:
    """Return the error of the ledger for an error of SQLite; other errors are returned as they are."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    explanation = explain_sqlite_error(cause, path) if isinstance(cause, sqlite3.Error) else None
    return explanation or error
