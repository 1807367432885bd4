"""Migrates a ledger to the schema of this version, before the event loop starts."""

import logging
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from speakeasyd.durable import create_private
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import views
from speakeasyd.ledger.backup import back_up
from speakeasyd.ledger.connections import build_engine, translate_error
from speakeasyd.ledger.failures import explain_errors
from speakeasyd.ledger.pairing import forget_pair, refuse_foreign_log
from speakeasyd.mounts import NETWORK, Mount, find_filesystem_type

log = logging.getLogger(__name__)

BUSY_MS = 60_000  # milliseconds to wait for another program that migrates or writes
_PRAGMAS = (
    f"busy_timeout = {BUSY_MS}",
    "journal_mode = WAL",
    "synchronous = FULL",
    # with foreign keys on, dropping a table to rebuild it would delete rows that refer to it
    "foreign_keys = OFF",
)


def require_local_filesystem(ledger: Path, mounts: Iterable[Mount] | None = None) -> None:
    """Check that the ledger is on a local filesystem.

    Raises LedgerError for a network filesystem or a folder that is shared with a host machine.
    """
    kind = find_filesystem_type(ledger.parent, mounts)
    if kind in NETWORK:
        raise LedgerError(
            f"the ledger {ledger} would be on a network filesystem ({kind}), "
            "where SQLite loses data",
            hint=(
                "Choose a state folder on a disk of this machine; "
                "inboxes and outboxes may stay on the network."
            ),
        )


def migrate_ledger(path: Path, *, scripts: Path | None = None) -> None:
    """Create the ledger, or back it up and upgrade it. One transaction: all or nothing.

    Raises LedgerError on a network filesystem, for a ledger of a newer version, and for one that is
    damaged or not writable.
    """
    try:
        with explain_errors(path):
            require_local_filesystem(path)
            refuse_foreign_log(path)
            forget_pair(path)
            _migrate_locked(path, scripts or find_scripts())
    except (sqlite3.Error, DBAPIError) as error:
        problem = translate_error(error, path)
        if problem is error:
            problem = LedgerError(f"the ledger {path} cannot be created or upgraded: {error}")
        raise problem from error


def find_scripts() -> Path:
    """Return the folder of the migrations: in the installed package, or in the repository."""
    installed = Path(str(resources.files("speakeasyd") / "_migrations"))
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def known_revisions(scripts: Path | None = None) -> set[str]:
    """Return the schema versions that this version of the program knows."""
    return {
        script.name.partition("_")[0]
        for script in ((scripts or find_scripts()) / "versions").glob("[0-9]*.py")
    }


def find_schema(scripts: Path) -> Path:
    """Return the file with what the migrations make; `tools/write_schema.py` writes it."""
    return scripts / f"schema_{max(known_revisions(scripts))}.sql"


def _migrate_locked(path: Path, scripts: Path) -> None:
    known = known_revisions(scripts)
    revision, newest = _read_revision(path), max(known)
    if revision and revision not in known:
        raise LedgerError(
            f"the ledger {path} was made by a newer version of speakeasyd (schema {revision})",
            hint="Update speakeasyd, or restore an older copy: speakeasyd ledger restore FILE",
        )
    if revision and revision != newest:
        size_mb = path.stat().st_size / 1e6
        log.info("upgrading the ledger (%.0f MB) from schema %s to %s", size_mb, revision, newest)
        copy = back_up(path, label=revision)
        log.info("the ledger as it was is kept: %s", copy)
    schema = find_schema(scripts)
    create_private(path)  # SQLite gives its other files the same mode
    with build_engine(path, "rw", "BEGIN IMMEDIATE", *_PRAGMAS).begin() as connection:
        if schema.exists() and _is_empty(connection):
            _create_tables(connection, schema)
        elif revision != newest:
            _run_alembic(connection, scripts)
        _recreate_views(connection)
        _check_references(connection)
    if revision and revision != newest:
        log.info("the ledger is upgraded")


def _is_empty(connection: Connection) -> bool:
    """Return whether the database has no tables: another program may have just created them."""
    return connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first() is None


def _create_tables(connection: Connection, schema: Path) -> None:
    """Create what the migrations would."""
    for statement in schema.read_text("utf-8").split(";\n\n"):
        connection.exec_driver_sql(statement)


def _run_alembic(connection: Connection, scripts: Path) -> None:
    """Run the migrations. Alembic is imported here because it is large and rarely needed."""
    config = import_module("alembic.config").Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    import_module("alembic.command").upgrade(config, "head")


def _read_revision(path: Path) -> str | None:
    """Return the schema version of the ledger; None if it does not exist yet."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone():
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def _recreate_views(connection: Connection) -> None:
    existing: Any = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
    )
    for statement in views.build_view_statements(dict(existing.all())):
        connection.exec_driver_sql(statement)


def _check_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise LedgerError(
            f"the migration would leave {len(broken)} broken references; nothing was changed"
        )
