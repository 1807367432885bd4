"""Gives the space of deleted rows back to the disk."""

import sqlite3
from contextlib import closing
from pathlib import Path

from speakeasyd.ledger.access import require_writable
from speakeasyd.ledger.failures import build_sqlite_error
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.pairing import changing_database, refuse_foreign_log

_MERGE_INDEX = "INSERT INTO segments_fts (segments_fts) VALUES ('optimize')"


def compact_ledger(ledger: Path) -> tuple[int, int]:
    """Rewrite the ledger without its unused pages. Returns its size in bytes before and after.

    Needs as much free space on the disk as the ledger has. Raises LedgerError; StartError while a
    daemon runs.
    """
    require_writable(ledger)
    with LedgerLock(ledger.parent):
        refuse_foreign_log(ledger)
        before = ledger.stat().st_size
        try:
            with (
                changing_database(ledger),
                closing(sqlite3.connect(ledger, isolation_level=None)) as connection,
            ):
                connection.execute(_MERGE_INDEX)
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise build_sqlite_error(error, ledger, "compacted") from error
        return before, ledger.stat().st_size
