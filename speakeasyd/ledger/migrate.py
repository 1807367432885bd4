"""Bring a ledger up to the schema of this version, before the event loop starts."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from speakeasyd.durable import create_private
from speakeasyd.errors import LedgerError
from speakeasyd.ledger import views
from speakeasyd.ledger.backup import back_up
from speakeasyd.ledger.connections import translate_error
from speakeasyd.ledger.pairing import forget_pair, refuse_foreign_log
from speakeasyd.mounts import NETWORK, Mount, find_filesystem_type

BUSY_MS = 60_000  # milliseconds to wait for another program that migrates or writes


def require_local_filesystem(ledger: Path, mounts: Iterable[Mount] | None = None) -> None:
    """Raises LedgerError when `ledger` would lie on a network filesystem, or in a folder shared with a host machine."""
    kind = find_filesystem_type(ledger.parent, mounts)
    if kind in NETWORK:
        raise LedgerError(
            f"the ledger {ledger} would lie on a network filesystem ({kind}), where SQLite loses data",
            hint="Choose a state folder on a disk of this machine; inboxes and outboxes may stay on the network.",
        )


def migrate_ledger(path: Path, *, scripts: Path | None = None) -> None:
    """Create the ledger, or upgrade it after a backup. All in one transaction: killed half-way, nothing has happened.

    Raises LedgerError on a network filesystem, for a ledger of a newer version, and when it is damaged or not writable.
    """
    require_local_filesystem(path)
    refuse_foreign_log(path)
    forget_pair(path)
    try:
        _migrate_locked(path, scripts or find_scripts())
    except (sqlite3.Error, DBAPIError) as error:
        problem = translate_error(error, path)
        if problem is error:
            problem = LedgerError(f"the ledger {path} cannot be made ready: {error}")
        raise problem from error


def find_scripts() -> Path:
    """The migrations: inside the installed package, or at the top of the repository."""
    installed = Path(str(resources.files("speakeasyd") / "_migrations"))
    return installed if installed.is_dir() else Path(__file__).parents[2] / "migrations"


def known_revisions(scripts: Path | None = None) -> set[str]:
    """The versions of the schema that this version of the program knows."""
    return {
        script.name.partition("_")[0]
        for script in ((scripts or find_scripts()) / "versions").glob("[0-9]*.py")
    }


def _migrate_locked(path: Path, scripts: Path) -> None:
    known = known_revisions(scripts)
    revision, newest = _read_revision(path), max(known)
    if revision and revision not in known:
        raise LedgerError(
            f"the ledger {path} was made by a newer version of speakeasyd (schema {revision})",
            hint="Update speakeasyd, or put back a copy of before: speakeasyd ledger restore FILE",
        )
    if revision and revision != newest:
        back_up(path, label=revision)
    create_private(path)  # SQLite gives its other files the same mode
    engine = _create_engine(path)
    try:
        with engine.begin() as connection:
            if revision != newest:
                _run_alembic(connection, scripts)
            _recreate_views(connection)
            _check_references(connection)
    finally:
        engine.dispose()


def _run_alembic(connection: Connection, scripts: Path) -> None:
    """Alembic is imported here alone: it is large, and most starts do not need it."""
    config = import_module("alembic.config").Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    import_module("alembic.command").upgrade(config, "head")


def _read_revision(path: Path) -> str | None:
    """The schema that the ledger has; None for a ledger that is yet to be made."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchone():
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def _create_engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "PRAGMA foreign_keys = OFF"
        )  # else dropping a table to rebuild it deletes what refers to it

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


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
