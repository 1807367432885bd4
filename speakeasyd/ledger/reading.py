"""Queries that people write themselves, on a connection that can only read. Quick to import: no SQLAlchemy here."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from speakeasyd.errors import LedgerError, QueryError

BUSY_S = 5.0  # seconds to wait where a read must wait at all
STEP = 100_000  # instructions of SQLite's machine between two looks at the clock

_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_PRAGMAS = frozenset(
    {
        "compile_options",
        "data_version",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)

Row = dict[str, object]
Parameters = Mapping[str, object] | Sequence[object]


def read(path: Path, sql: str, parameters: Parameters = (), *, limit_s: float | None = None) -> list[Row]:
    """The rows of one query. Blocks: in the event loop use `Ledger.rows`.

    Raises QueryError for a query that is wrong, wants to write or attach, or takes longer than `limit_s` seconds;
    LedgerError when there is no ledger at `path`.
    """
    with closing(_connect(path)) as connection:
        started = time.monotonic()
        # Called now and then even without a limit: else Ctrl-C would wait for the query to end.
        connection.set_progress_handler(lambda: limit_s is not None and time.monotonic() - started > limit_s, STEP)
        try:
            cursor = connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise _explained(error, limit_s) from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.Error as error:
        hint = "" if path.exists() else "It is made when the daemon first starts. Is the state folder the right one?"
        raise LedgerError(f"cannot read the ledger {path}: {error}", hint=hint) from error
    connection.set_authorizer(_allow)
    return connection


def _allow(action: int, argument: str | None, _value: str | None, _database: str | None, _source: str | None) -> int:
    match action:
        case sqlite3.SQLITE_PRAGMA:
            allowed = argument in _PRAGMAS
        case (
            sqlite3.SQLITE_UPDATE
        ):  # how SQLite declares a virtual table to itself; a statement that says so, it refuses
            allowed = argument in {"sqlite_master", "sqlite_schema"}
        case _:
            allowed = action in _READS
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _explained(error: Exception, limit_s: float | None) -> QueryError:
    match str(error):
        case "interrupted":
            return QueryError(f"the query took longer than {limit_s} s", hint="Ask for less: a LIMIT or a WHERE helps.")
        case "not authorized":
            return QueryError("the query wants more than to read", hint="Only SELECT, WITH and EXPLAIN.")
        case text:
            return QueryError(f"the query is wrong: {text}", hint="docs/sql.md shows the views and their columns.")
