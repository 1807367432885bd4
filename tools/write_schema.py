"""Writes `migrations/schema_REVISION.sql`: what the migrations make of an empty ledger.

    python -m tools.write_schema

A new ledger is created from it, since Alembic needs more than 0.1 s. Views are not in it: they are
created at every start.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from speakeasyd.ledger.migrate import find_schema, find_scripts, migrate_ledger

PATTERN = "schema_*.sql"
_STATEMENTS = """
    SELECT sql, objects.type IN ('index', 'trigger') AS later, objects.rowid AS number
    FROM sqlite_master AS objects LEFT JOIN pragma_table_list AS tables USING (name)
    WHERE later OR (tables.type IN ('table', 'virtual') AND name NOT LIKE 'sqlite_%')
    UNION ALL
    SELECT 'INSERT INTO alembic_version VALUES (' || quote(version_num) || ')', 2, 0
    FROM alembic_version
    ORDER BY later, number
"""


def main() -> None:
    scripts = find_scripts()
    for old in scripts.glob(PATTERN):
        old.unlink()
    path = find_schema(scripts)
    path.write_text(build_schema(), encoding="utf-8", newline="\n")
    print(path)


def build_schema() -> str:
    """Return the schema that the migrations make."""
    with tempfile.TemporaryDirectory() as folder:
        scripts, ledger = Path(folder) / "migrations", Path(folder) / "ledger.db"
        shutil.copytree(find_scripts(), scripts, ignore=shutil.ignore_patterns(PATTERN))
        migrate_ledger(ledger, scripts=scripts)
        with closing(sqlite3.connect(ledger)) as connection:
            return read_statements(connection)


def read_statements(connection: sqlite3.Connection) -> str:
    """Return what creates a ledger like this one, with an empty line between two statements."""
    return ";\n\n".join(sql for sql, *_ in connection.execute(_STATEMENTS) if sql) + ";\n"


if __name__ == "__main__":
    main()
