"""Notices a ledger that was put back beside the write-ahead log of another.

SQLite has no link between the two: it lays the log's pages over whatever database is there, which undoes a restore, or
damages the database. So while the daemon has the ledger open, a small file beside it says which database the log was
written for. The database changes only when the daemon moves the log into it (a checkpoint); that is marked before.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speakeasyd.durable import create_private
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.backup import log_files


def refuse_foreign_log(ledger: Path) -> None:
    """Raises LedgerError if `ledger` was replaced while changes of the one before were still in its log."""
    before = _read_pair(ledger)
    if before is None or not _is_foreign(ledger, before):
        return
    if _read_pair(ledger) != before:  # the daemon has just moved the log into the database
        return
    log = log_files(ledger)[0]
    raise LedgerError(
        f"{ledger} was replaced, but {log.name} beside it still holds changes of the one before",
        hint=(
            f"To go on with the file that was put there: speakeasyd ledger restore {ledger}\n"
            "To go on with another copy: speakeasyd ledger restore FILE\n"
            "Either keeps what is there now under another name. Without that the old changes would overwrite the copy."
        ),
    )


def note_pair(ledger: Path) -> None:
    """From now on this log belongs to this database."""
    try:
        main, log = ledger.stat(), log_files(ledger)[0].stat()
    except FileNotFoundError:
        return
    _write_pair(ledger, {"main": main.st_ino, "mtime_ns": main.st_mtime_ns, "log": log.st_ino})


@contextmanager
def changing_database(ledger: Path) -> Iterator[None]:
    """Around a checkpoint: killed inside, nothing can be said of the pair."""
    forget_pair(ledger)
    try:
        yield
    finally:
        note_pair(ledger)


def forget_pair(ledger: Path) -> None:
    _describe_file(ledger).unlink(missing_ok=True)


def _is_foreign(ledger: Path, pair: dict[str, Any]) -> bool:
    try:
        main, log = ledger.stat(), log_files(ledger)[0].stat()
        marked_at = _describe_file(ledger).stat().st_mtime
    except FileNotFoundError:
        return False
    if (
        log.st_size == 0 or log.st_ino != pair["log"]
    ):  # nothing in it, or the whole folder was copied
        return False
    if main.st_ino != pair["main"] or main.st_mtime_ns > pair["mtime_ns"]:
        return True
    if main.st_mtime_ns == pair["mtime_ns"]:
        return False
    import psutil  # noqa: PLC0415 - seldom needed, and each command comes here

    power_went = (
        psutil.boot_time() > marked_at
    )  # SQLite syncs the content, not the time, which may be older then
    return not power_went


def _describe_file(ledger: Path) -> Path:
    return ledger.with_name(f"{ledger.name}-pair")


def _read_pair(ledger: Path) -> dict[str, Any] | None:
    try:
        pair = json.loads(_describe_file(ledger).read_bytes())
    except (OSError, ValueError):
        return None
    return pair if isinstance(pair, dict) and pair.keys() >= {"main", "mtime_ns", "log"} else None


def _write_pair(ledger: Path, pair: dict[str, int]) -> None:
    mark = _describe_file(ledger)
    create_private(mark)
    mark.write_text(json.dumps(pair), encoding="ascii")
