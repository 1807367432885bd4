"""Users' own queries, on a connection that can only read. Quick to import: no SQLAlchemy here."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from speakeasyd.errors import LedgerError, QueryError, QueryTimeout
from speakeasyd.ledger.access import open_for_reading
from speakeasyd.ledger.failures import explain_sqlite_error

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

Row = dict[str, object]
Parameters = Mapping[str, object] | Sequence[object]


T = TypeVar("T")


class QueryBudget:
    """The time limit and the cancellation of a group of queries."""

    def __init__(self, limit_s: float | None = None) -> None:
        self.limit_s = limit_s
        self.started = False
        self.finished = False
        self._began = time.monotonic()
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None  # the connection with a running query

    @classmethod
    def current(cls) -> "QueryBudget":
        """Return the budget of the caller; one without a limit if there is none."""
        return _budget.get() or cls()

    def start(self) -> None:
        """Start the time now: the call may have waited for a thread before."""
        self.started = True
        self._began = time.monotonic()

    def cancel(self) -> None:
        """Cancel the queries. Thread-safe."""
        self._cancelled.set()
        self.interrupt()

    def interrupt(self) -> None:
        """Interrupt the running query. Thread-safe. No effect between two queries: repeat it."""
        with self._lock:
            if self._connection:
                self._connection.interrupt()

    @contextmanager
    def applied_to(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Apply the limit to the queries on this connection.

        SQLite calls the progress handler between its instructions. A full-text search may be one
        instruction that takes a minute; only an interrupt from another thread can end that.
        """
        connection.set_progress_handler(self.is_over, STEP)
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None
            connection.set_progress_handler(None, 0)

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def spent(self) -> bool:
        return self.limit_s is not None and time.monotonic() - self._began > self.limit_s

    def is_over(self) -> bool:
        """Return whether the query must end. SQLite calls it as its progress handler."""
        return self.cancelled or self.spent


_budget: ContextVar[QueryBudget | None] = ContextVar("budget", default=None)


def limited(budget: QueryBudget, function: Callable[[], T]) -> T:
    """Call a function; all its queries share this budget."""
    token = _budget.set(budget)
    budget.start()
    try:
        return function()
    finally:
        budget.finished = True
        _budget.reset(token)


def explain_interrupt(error: Exception, budget: QueryBudget) -> Exception | None:
    """Return the error for an interrupted query; None if `error` has another reason."""
    cause = getattr(error, "orig", None) or error
    if not isinstance(cause, sqlite3.OperationalError) or "interrupted" not in str(cause):
        return None
    if budget.cancelled:
        return LedgerError("the query was cancelled")
    hint = "Reduce the query: add a LIMIT or a WHERE, or use fewer words."
    return (
        QueryTimeout(f"the query took longer than {budget.limit_s:g} s", hint=hint)
        if budget.spent
        else None
    )


def query_readonly(
    path: Path, sql: str, parameters: Parameters = (), *, limit_s: float | None = None
) -> list[Row]:
    """Return the rows of one query. Blocks: in the event loop use `Ledger.query_rows`.

    Raises QueryError for a query that is wrong, or that writes or attaches; QueryTimeout for one
    that takes longer than `limit_s` seconds or the caller's budget; KeyboardInterrupt if Ctrl-C
    ended it; LedgerHeld while another program locks the ledger; LedgerError if there is no ledger
    at `path`.
    """
    budget = QueryBudget(limit_s) if limit_s is not None else QueryBudget.current()
    with (
        open_for_reading(path) as connection,
        budget.applied_to(connection),
        _alarm(limit_s, budget),
    ):
        connection.set_authorizer(_authorize_statement)
        try:
            cursor = connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except (sqlite3.Error, sqlite3.Warning) as error:
            if interrupt := explain_interrupt(error, budget):
                raise interrupt from error
            # Ctrl-C raised an exception in the progress handler, which SQLite swallowed
            if str(error) == "interrupted":
                raise KeyboardInterrupt from error
            raise explain_sqlite_error(error, path) or _translate_error(error) from error


@contextmanager
def _alarm(limit_s: float | None, budget: QueryBudget) -> Iterator[None]:
    """Interrupt the query from a timer thread when its time is over. Needs no event loop."""
    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s + 0.01, budget.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
