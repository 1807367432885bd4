"""Queries that the daemon and the command line share. Quick to import: no SQLAlchemy here.

A query is a function whose first argument is a connection to one snapshot of the ledger. The daemon
runs it with `Ledger.read`, a command with `read_ledger`.
"""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sqlalchemy import Connection

Row = dict[str, object]
Parameters = Mapping[str, object] | Sequence[object]

ReadConnection: TypeAlias = "sqlite3.Connection | Connection"
"""What a command reads with, or what the daemon reads with."""

STREAMED: dict[str, Any] = {"stream_results": True, "max_row_buffer": 500}
"""Options of SQLAlchemy for a statement with many rows: so many at once."""


def fetch_rows(connection: ReadConnection, sql: str, parameters: Parameters = ()) -> list[Row]:
    """Return the rows of a statement."""
    if isinstance(connection, sqlite3.Connection):
        return list(stream_rows(connection, sql, parameters))
    result = connection.exec_driver_sql(sql, _convert_parameters(parameters))
    return [dict(row) for row in result.mappings()]


def fetch_value(connection: ReadConnection, sql: str, parameters: Parameters = ()) -> object:
    """Return the first value of the first row; None if there is no row."""
    rows = fetch_rows(connection, sql, parameters)
    return next(iter(rows[0].values())) if rows else None


def stream_rows(
    connection: ReadConnection, sql: str, parameters: Parameters = ()
) -> Generator[Row, None, None]:
    """Yield the rows of a statement as SQLite finds them. Close it if you leave it early."""
    if isinstance(connection, sqlite3.Connection):
        cursor = connection.execute(sql, parameters)
        names = [column[0] for column in cursor.description or ()]
        for row in cursor:
            yield dict(zip(names, row, strict=True))
        return
    given = _convert_parameters(parameters)
    with connection.exec_driver_sql(sql, given, execution_options=STREAMED) as result:
        for mapping in result.mappings():
            yield dict(mapping)


def _convert_parameters(parameters: Parameters) -> dict[str, object] | tuple[object, ...]:
    return dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)
