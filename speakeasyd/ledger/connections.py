"""The connections to the ledger: one that writes, and those that can only read.

Each belongs to a thread: a transaction is several statements that wait only for the disk.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from speakeasyd.errors import LedgerError
from speakeasyd.ledger.failures import explain_errors, explain_sqlite_error
from speakeasyd.ledger.pairing import refuse_foreign_log

BUSY_MS = 5000  # milliseconds to wait for another program's write
WAL_BYTES = 32 * 1024 * 1024  # bytes of the write-ahead log before a checkpoint
_COMMON = (f"busy_timeout = {BUSY_MS}", "foreign_keys = ON", "wal_autocheckpoint = 0")


def create_write_engine(path: Path) -> Engine:
    """Return the engine of the writer. Every transaction takes the write lock when it begins.

    So no transaction fails half-way because the lock is taken. SQLite's automatic checkpoints are
    off: the daemon runs them, see `Writer`; other programs leave them to the daemon, since two
    checkpoints at once can corrupt the database in SQLite before 3.51.3.
    """
    return build_engine(
        path,
        "rw",
        "BEGIN IMMEDIATE",
        *_COMMON,
        "synchronous = FULL",  # a committed change must survive a power failure
        f"journal_size_limit = {WAL_BYTES}",
    )


def create_read_engine(path: Path) -> Engine:
    """Return an engine whose connections cannot write. Every transaction is a snapshot.

    In WAL mode readers never wait for the writer, and the writer never waits for readers.
    """
    return build_engine(path, "ro", "BEGIN", *_COMMON, "query_only = ON")


def build_engine(path: Path, mode: str, begin: str, *pragmas: str) -> Engine:
    """Return an engine without a pool: whoever opens a connection keeps it.

    `mode`: of SQLite's URI. `begin`: the statement that begins each transaction.
    """
    url = URL.create(
        "sqlite", database=path.absolute().as_uri(), query={"uri": "true", "mode": mode}
    )
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "isolation_level": None,  # by default, the driver would begin deferred transactions
            "check_same_thread": False,
        },
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


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


def is_io_error(error: Exception) -> bool:
    """Return whether the files of the connection cannot be read, or are not the ledger's any more."""
    cause = _find_cause(error)
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def translate_error(error: Exception, path: Path) -> Exception:
    """Return the error of the ledger for an error of SQLite; other errors are returned as they are."""
    cause = _find_cause(error)
    explanation = explain_sqlite_error(cause, path) if isinstance(cause, sqlite3.Error) else None
    return explanation or error


def _find_cause(error: Exception) -> BaseException | None:
    """Return the driver's error for one of SQLAlchemy."""
    return error.orig if isinstance(error, DBAPIError) else error
