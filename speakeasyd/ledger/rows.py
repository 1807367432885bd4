"""Queries that the daemon and the command line share. Quick to import: no SQLAlchemy here.

A query is a function whose first argument is a connection to one snapshot of the ledger. The daemon
runs it with `Ledger.read`, a command with `read_ledger`.
"""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from sqlalchemy import Connection

Row = dict[str, object]
Parameters = Mapping[str, object] | Sequence[object]

ReadConnection: TypeAlias = "sqlite3.Connection | Connection"
"""What a command reads with, or what the daemon reads with."""


def fetch_rows(connection: ReadConnection, sql: str, parameters: Parameters = ()) -> list[Row]:
    """Return the rows of a statement."""
    return list(stream_rows(connection, sql, parameters))


def fetch_value(connection: ReadConnection, sql: str, parameters: Parameters = ()) -> object:
    """Return the first value of the first row; None if there is no row."""
    rows = fetch_rows(connection, sql, parameters)
    return next(iter(rows[0].values())) if rows else None


def stream_rows(
    connection: ReadConnection, sql: str, parameters: Parameters = ()
) -> Generator[Row, None, None]:
    """Yield the rows of a statement as SQLite finds them. Close it if you leave it early."""
    with closing(_get_driver(connection).execute(sql, parameters)) as cursor:
        names = [column[0] for column in cursor.description or ()]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _get_driver(connection: ReadConnection) -> sqlite3.Connection:
    if isinstance(connection, sqlite3.Connection):
        return connection
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)
