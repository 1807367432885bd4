"""Queries of commands, on a connection that can only read. Quick to import: no SQLAlchemy here."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from speakeasyd.errors import LedgerError, QueryError, QueryTimeout
from speakeasyd.ledger.access import open_for_reading
from speakeasyd.ledger.failures import explain_sqlite_error
from speakeasyd.ledger.rows import Parameters, Row, fetch_rows

STEP = 20_000  # virtual machine instructions of SQLite between two checks of the time limit

_READS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
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

QUERY_S = 30.0  # seconds that a user's query beside other work may take
LEDGER = "ledger.db"  # the ledger's name in the state folder

P = ParamSpec("P")
T = TypeVar("T")


class QueryBudget:
    """The time limit of a query, and whether it was cancelled."""

    def __init__(self, limit_s: float | None = None) -> None:
        self.limit_s = limit_s
        self.cancelled = False
        self.start()

    def start(self) -> None:
        """Start the time now: the query may have waited for a connection before."""
        self._began = time.monotonic()

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def spent(self) -> bool:
        return self.limit_s is not None and time.monotonic() - self._began >= self.limit_s

    def is_over(self) -> bool:
        """Return whether the query must end.

        As its progress handler, SQLite calls it between instructions. A full-text search may be one
        instruction that takes a minute; only an interrupt from another thread can end that.
        """
        return self.cancelled or self.spent


def explain_interrupt(error: Exception, budget: QueryBudget) -> Exception | None:
    """Return the error for an interrupted query; None if `error` has another reason."""
    cause = getattr(error, "orig", None) or error
    if not isinstance(cause, sqlite3.OperationalError) or not _is_interrupt(cause):
        return None
    if budget.cancelled:
        return LedgerError("the query was cancelled")
    hint = "Reduce the query: add a LIMIT or a WHERE, or use fewer words."
    return (
        QueryTimeout(f"the query took longer than {budget.limit_s:g} s", hint=hint)
        if budget.spent
        else None
    )


def read_ledger(
    state: Path,
    query: Callable[Concatenate[sqlite3.Connection, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a query on a snapshot of the ledger, with or without a running daemon. Blocks.

    Raises what the query raises, LedgerError if the ledger cannot be read.
    """
    with open_snapshot(state / LEDGER) as connection:
        return query(connection, *args, **kwargs)


def query_readonly(
    path: Path, sql: str, parameters: Parameters = (), *, limit_s: float | None = None
) -> list[Row]:
    """Return the rows of a user's own query. Blocks.

    Raises QueryError for a query that is wrong, or that writes or attaches; QueryTimeout for one
    that takes longer than `limit_s` seconds; KeyboardInterrupt if Ctrl-C ended it; LedgerHeld while
    another program locks the ledger; LedgerError if there is no ledger at `path`.
    """
    with open_snapshot(path, limit_s) as connection:
        connection.set_authorizer(_authorize_statement)
        try:
            return fetch_rows(connection, sql, parameters)
        except (sqlite3.Error, sqlite3.Warning) as error:
            if _is_interrupt(error) or explain_sqlite_error(error, path):
                raise
            raise _translate_error(error) from error


def find_matching_jobs(path: Path, condition: str) -> list[int]:
    """Return the jobs that match a user's condition on `job_status`. Raises as `query_readonly`."""
    query = f"SELECT job_id FROM job_status WHERE (\n{condition}\n)"  # noqa: S608 - can only read
    rows = query_readonly(path, query, limit_s=QUERY_S)
    return [int(str(row["job_id"])) for row in rows]


@contextmanager
def open_snapshot(path: Path, limit_s: float | None = None) -> Iterator[sqlite3.Connection]:
    """Open the ledger for reading as it is now. Errors: see `read_ledger`, `query_readonly`."""
    budget = QueryBudget(limit_s)
    with open_for_reading(path) as connection, _limit_time(connection, limit_s):
        connection.set_progress_handler(budget.is_over, STEP)
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            if interrupt := explain_interrupt(error, budget):
                raise interrupt from error
            # Ctrl-C raised an exception in the progress handler, which SQLite swallowed
            if _is_interrupt(error):
                raise KeyboardInterrupt from error
            unreadable = LedgerError(f"cannot read the ledger {path}: {error}")
            raise explain_sqlite_error(error, path) or unreadable from error


@contextmanager
def _limit_time(connection: sqlite3.Connection, limit_s: float | None) -> Iterator[None]:
    """Interrupt the query from a timer thread when its time is over. Needs no event loop."""
    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s + 0.01, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_interrupt(error: Exception) -> bool:
    return str(error) == "interrupted"


def _authorize_statement(
    action: int,
    argument: str | None,
    _value: str | None,
    _database: str | None,
    _source: str | None,
) -> int:
    match action:
        case sqlite3.SQLITE_PRAGMA:
            allowed = argument in _PRAGMAS
        # SQLite declares virtual tables this way; it refuses such a statement from a user
        case sqlite3.SQLITE_UPDATE:
            allowed = argument in {"sqlite_master", "sqlite_schema"}
        case _:
            allowed = action in _READS
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _translate_error(error: Exception) -> QueryError:
    match str(error):
        case "not authorized":
            return QueryError(
                "the query does more than read",
                hint="Only SELECT, WITH and EXPLAIN are allowed.",
            )
        case text:
            return QueryError(
                f"the query is wrong: {text}", hint="docs/sql.md shows the views and their columns."
            )
