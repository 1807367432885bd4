"""The connections to the ledger: one that writes, a few that can only read.

Both are synchronous and are used in threads of the ledger. A query or a transaction is several
statements that wait only for the disk; a thread switch for each statement cost six times as much as
the statement.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from speakeasyd.errors import LedgerError
from speakeasyd.ledger.failures import explain_sqlite_error, explained
from speakeasyd.ledger.pairing import refuse_foreign_log

BUSY_MS = 5000  # milliseconds to wait for another program's write
READERS = 3  # number of read connections, each with a thread
WAL_BYTES = 32 * 1024 * 1024  # bytes of the write-ahead log before a checkpoint

_CONNECT = {"isolation_level": None}  # the default makes the driver begin deferred transactions


def create_write_engine(path: Path) -> Engine:
    """Return an engine with one connection. Every transaction takes the write lock when it begins.

    So no transaction fails half-way because the lock is taken. SQLite's automatic checkpoints are
    off: the daemon runs them, see `Writer`; other programs leave them to the daemon, since two
    checkpoints at once can corrupt the database in SQLite before 3.51.3.
    """
    engine = create_engine(
        _build_url(path, mode="rw"), connect_args=_CONNECT, pool_size=1, max_overflow=0
    )
    _set_pragmas_on_connect(
        engine,
        "synchronous = FULL",  # a committed change must survive a power failure
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {WAL_BYTES}",
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def create_read_engine(path: Path, *, size: int = READERS) -> Engine:
    """Return an engine with connections that cannot write.

    In WAL mode readers never wait for the writer, and the writer never waits for readers.
    """
    engine = create_engine(
        _build_url(path, mode="ro"), connect_args=_CONNECT, pool_size=size, max_overflow=0
    )
    _set_pragmas_on_connect(engine, "query_only = ON", "wal_autocheckpoint = 0")
    return engine


def _build_url(path: Path, *, mode: Literal["ro", "rw"]) -> URL:
    return URL.create(
        "sqlite", database=path.absolute().as_uri(), query={"uri": "true", "mode": mode}
    )


def _set_pragmas_on_connect(engine: Engine, *pragmas: str) -> None:
    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (f"busy_timeout = {BUSY_MS}", "foreign_keys = ON", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def check_schema(path: Path) -> None:
    """Check that the ledger can be opened and has the schema of this version.

    Raises LedgerError, or one of its subclasses that says why the ledger cannot be opened.
    """
    with explained(path):
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


def translate_error(error: Exception, path: Path) -> Exception:
    """Return the error of the ledger for an error of SQLite; other errors are returned as they are."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    explanation = explain_sqlite_error(cause, path) if isinstance(cause, sqlite3.Error) else None
    return explanation or error
