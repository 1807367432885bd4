"""Read-only queries to the ledger beside a running daemon. Quick to import: no SQLAlchemy here."""

from collections.abc import Mapping
from pathlib import Path

from speakeasyd.ledger.readonly import Row, query_readonly

LEDGER = "ledger.db"


def query_ledger(
    state: Path, sql: str, parameters: Mapping[str, object] | None = None
) -> list[Row]:
    """Return the rows of a query.

    Raises LedgerError if there is no ledger, QueryError if the query is wrong.
    """
    return query_readonly(state / LEDGER, sql, parameters or {})
