"""Questions to the ledger beside a running daemon. Quick to import: no SQLAlchemy here."""

from collections.abc import Mapping
from pathlib import Path

from speakeasyd.ledger.reading import Row, read

LEDGER = "ledger.db"


def ask(state: Path, sql: str, parameters: Mapping[str, object] | None = None) -> list[Row]:
    """Raises LedgerError where there is no ledger, QueryError for a query that is wrong."""
    return read(state / LEDGER, sql, parameters or {})
