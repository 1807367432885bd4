"""Bring a ledger to this program's schema: before the loop starts, with a backup, all or nothing."""

import logging
from importlib import resources
from pathlib import Path

import psutil
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DatabaseError, OperationalError

from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.ledger import views
from speakeasyd.ledger.engine import migrator

log = logging.getLogger(__name__)

BACKUPS = 3  # kept
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smbfs", "smb3", "9p", "afpfs", "fuse.sshfs", "fuse.rclone", "ceph", "glusterfs"}
)


def migrate(path: Path, *, scripts: Path | None = None) -> None:
    """Create or upgrade the ledger at `path`.

    Raises LedgerError when it lies on a network filesystem, is newer than this program, or is no SQLite database.
    """
    _refuse_network(path.parent)
    engine = migrator(path)
    try:
        _upgrade(engine, path, _config(scripts or _scripts()))
    except OperationalError as error:
        raise LedgerUnwritable(
            f"{path} cannot be written: {error.orig}", hint="Is the disk full or read-only?"
        ) from error
    except DatabaseError as error:
        raise LedgerError(
            f"{path} is damaged or no ledger: {error.orig}", hint=f"Restore a backup from {path.parent / 'backups'}."
        ) from error
    finally:
        engine.dispose()


def _upgrade(engine: Engine, path: Path, config: Config) -> None:
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    head = script.get_current_head()
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise LedgerError(
            f"{path} was written by a newer speakeasyd (its schema is {current}, this program knows up to {head})",
            hint="Install the newer version again, or use another state folder.",
        )
    if current is not None and current != head:
        _back_up(engine, path, current)
    with engine.begin() as connection:
        if current != head:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            _check_references(connection)
        for statement in views.statements():
            connection.execute(text(statement))


def _back_up(engine: Engine, path: Path, revision: str) -> None:
    folder = path.parent / "backups"
    folder.mkdir(exist_ok=True)
    target = folder / f"{path.stem}-{revision}.db"
    target.unlink(missing_ok=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(target),))
    log.info("the ledger was backed up to %s before its schema changes", target)
    for old in sorted(folder.glob("*.db"), key=lambda backup: backup.stat().st_mtime)[:-BACKUPS]:
        old.unlink()


def _check_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise LedgerError(f"the migration would break {len(broken)} references; nothing was changed")


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> Path:
    """`speakeasyd/_migrations` of an installed wheel, else the repository's own folder."""
    package = Path(str(resources.files("speakeasyd")))
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _refuse_network(folder: Path) -> None:
    """SQLite's locks cannot be trusted over a network: two machines could corrupt the ledger."""
    real = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    deepest = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    if deepest and (deepest.fstype.lower() in NETWORK or "remote" in deepest.opts.split(",")):
        raise LedgerError(
            f"{folder} is on a network filesystem ({deepest.fstype}), where SQLite cannot lock safely",
            hint="Set `state` to a folder on a local disk; inboxes and outboxes may stay on the network.",
        )
