"""The two ways into the ledger: one connection that writes, a few that can only read.

Both are synchronous, and called in threads of the ledger's own: a question or a transaction is several statements, none
of which has anything to wait for but the disk, and going to a thread for each cost six times what the statement did.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from speakeasyd.errors import LedgerError, LedgerHeld, LedgerUnwritable
from speakeasyd.ledger.locks import describe_hold
from speakeasyd.ledger.pairing import refuse_foreign_log

BUSY_MS = 5000  # milliseconds to wait for another program's write
READERS = 3  # connections, each with its thread
WAL_BYTES = 32 * 1024 * 1024  # of the log, before it is moved into the database

_CONNECT = {
    "isolation_level": None
}  # else the driver begins transactions of its own, deferred ones

_FOR_A_WHILE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_PERM,
    }
)
_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def create_write_engine(path: Path) -> Engine:
    """One connection; every transaction takes the write lock as it begins, so that none fails half-way for want of it.

    It never moves the log into the database by itself: the daemon does, see `Writer`. A visitor leaves that to the
    daemon, since two that checkpoint at once have corrupted databases in versions of SQLite before 3.51.3.
    """
    engine = create_engine(
        _build_url(path, mode="rw"), connect_args=_CONNECT, pool_size=1, max_overflow=0
    )
    _set_pragmas_on_connect(
        engine,
        "synchronous = FULL",  # the ledger is the promise: what it says is on the disk
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {WAL_BYTES}",
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def create_read_engine(path: Path, *, size: int = READERS) -> Engine:
    """Connections that cannot write, whatever they are told. They never wait for the writer, nor it for them."""
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
    """Raises LedgerError unless there is a ledger of this version that can be opened."""
    refuse_foreign_log(path)
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        ) as connection:
            connection.execute("SELECT seq FROM events LIMIT 1")
    except sqlite3.Error as error:
        if not path.exists():
            hint = "Is it the right state folder? The daemon makes it."
            raise LedgerError(f"there is no ledger at {path}", hint=hint) from error
        problem = translate_error(error, path)
        if problem is error:
            problem = LedgerError(
                f"{path} is no ledger of this version: {error}", hint="The daemon upgrades it."
            )
        raise problem from error


def translate_error(error: Exception, path: Path | None = None) -> Exception:
    """A failure of SQLite in the ledger's own words; any other error as it is. `path`: whose holder is looked for."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the upper bits only tell sub-kinds
    if code in _HELD and path:
        return LedgerHeld(describe_hold(path), hint="Work goes on by itself then.")
    if code in _FOR_A_WHILE:
        return LedgerUnwritable(
            f"the ledger cannot be used just now: {cause}",
            hint="Is its disk full, read-only or gone, or does another program hold it? Work goes on once it can.",
        )
    if code in _DAMAGED:
        return LedgerError(
            f"the ledger is damaged: {cause}",
            hint=(
                "Stop the daemon and put back a copy, such as one from the folder 'backups' beside the ledger: "
                "speakeasyd ledger restore FILE. What is wrong: speakeasyd ledger check"
            ),
        )
    return error
