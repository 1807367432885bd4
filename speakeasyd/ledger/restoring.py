"""Restores a copy of the ledger, and checks whether a ledger is intact."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from speakeasyd.durable import give_to_folder_owner, private_mode, sync_folder
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.access import open_for_reading
from speakeasyd.ledger.backup import copy_ledger, log_files, open_copy
from speakeasyd.ledger.failures import explain_errors, explain_os_error, explain_sqlite_error
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.migrate import known_revisions, require_local_filesystem
from speakeasyd.ledger.pairing import forget_pair

RESTORE = "Restore an intact copy while no daemon runs: speakeasyd ledger restore FILE"
SHOWN = 10  # most problems of one kind that are listed


class DamagedLedger(LedgerError):
    """The file is a ledger, but its content is damaged."""

    exit_status = 1

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is damaged: {problem}", hint=RESTORE)


def restore_ledger(copy: Path, ledger: Path) -> Path | None:
    """Replace the ledger by `copy`. Returns the path of the replaced one; None if there was none.

    `copy` may be the ledger's own file; then its log is ignored. Raises LedgerError, before
    anything is changed, if `copy` is not an intact ledger; StartError while a daemon runs.
    """
    with explain_errors(copy):
        if not copy.is_file():
            raise LedgerError(
                f"there is no file {copy}",
                hint="Copies are in the folder `backups` beside the ledger.",
            )
    with explain_errors(ledger):
        require_local_filesystem(ledger)
        ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with LedgerLock(ledger.parent):
        fresh = ledger.with_name(f"{ledger.name}.restoring")
        try:
            _copy_checked(copy, fresh, without_log=ledger.exists() and copy.samefile(ledger))
            replaced = _keep_replaced(ledger)
            fresh.chmod(private_mode(ledger.parent))
            give_to_folder_owner(fresh)
            # if killed after this line, the next start detects that the log is of another ledger
            fresh.replace(ledger)
            for file in log_files(ledger):
                file.unlink(missing_ok=True)
            sync_folder(ledger.parent)
            forget_pair(ledger)
        except OSError as error:
            raise explain_os_error(error, ledger) from error
        finally:
            fresh.unlink(missing_ok=True)
    return replaced


def examine_ledger(ledger: Path) -> tuple[str, list[str]]:
    """Return the schema version of a ledger and its problems. A daemon may have it open.

    Raises LedgerError if it cannot be read as a ledger.
    """
    with open_for_reading(ledger) as connection:
        return _read_revision(connection, ledger), list(_list_problems(connection, ledger))


def _copy_checked(copy: Path, fresh: Path, *, without_log: bool) -> None:
    with closing(open_copy(copy, without_log=without_log)) as connection:
        _read_revision(connection, copy)
        problems = list(_list_problems(connection, copy))
        if problems:
            raise DamagedLedger(copy, problems[0])
        copy_ledger(connection, fresh, overwrite=True)


def _read_revision(connection: sqlite3.Connection, path: Path) -> str:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("SELECT 1 FROM jobs LIMIT 1")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
            raise DamagedLedger(path, str(error)) from error
        if isinstance(error, sqlite3.OperationalError):  # its place may be at fault
            raise explain_sqlite_error(error, path) or _no_ledger(path, str(error)) from error
        raise _no_ledger(path, str(error)) from error
    if not row:
        raise _no_ledger(path, "it has no schema version")
    revision = str(row[0])
    if revision not in known_revisions():
        raise LedgerError(
            f"{path} was made by a newer version of speakeasyd (schema {revision})",
            hint=(
                f"Update speakeasyd: this version knows the schema up to {max(known_revisions())}."
            ),
        )
    return revision


def _no_ledger(path: Path, why: str) -> LedgerError:
    return LedgerError(f"{path} is not a readable ledger: {why}")


def _list_problems(connection: sqlite3.Connection, path: Path) -> Iterator[str]:
    try:
        for (problem,) in connection.execute(f"PRAGMA integrity_check({SHOWN})"):
            if problem != "ok":
                yield str(problem)
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(
            SHOWN
        ):
            yield f"{table}, row {row}: it refers to a row of {parent} that is gone"
    except sqlite3.OperationalError as error:  # its place is at fault, not its content
        raise explain_sqlite_error(error, path) or _no_ledger(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        yield str(error)


def _keep_replaced(ledger: Path) -> Path | None:
    """Keep the ledger and its log under other, matching names: SQLite can open them later."""
    if not ledger.exists():
        return None
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    kept = ledger.with_name(f"{ledger.stem}-replaced-{moment}{ledger.suffix}")
    for file, name in zip((ledger, *log_files(ledger)), (kept, *log_files(kept)), strict=True):
        if file.exists():
            _link_file(file, name)
    sync_folder(ledger.parent)
    return kept


def _link_file(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # the filesystem has no hard links
        shutil.copy2(file, name)
