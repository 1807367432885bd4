"""Questions to the ledger beside a running daemon. Quick to import: no SQLAlchemy here."""

from collections.abc import Mapping
from pathlib import Path

from speakeasyd.ledger.readonly import Row, query_readonly

LEDGER = "ledger.db"


def query_ledger(
    state: Path, sql: str, parameters: Mapping[str, object] | None = None
) -> list[Row]:
    """Raises LedgerError where there is no ledger, QueryError for a query that is wrong."""
    return query_readonly(state / LEDGER, sql, parameters or {})
