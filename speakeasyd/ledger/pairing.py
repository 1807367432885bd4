"""Detects a ledger that was replaced beside the write-ahead log of another ledger.

SQLite has no link between the two: it applies the log's pages to whatever database is there, which
undoes a restore or corrupts the database. While the daemon has the ledger open, a small file beside
it (the pair file) says which database the log belongs to. The database file changes only in a
checkpoint; the pair file is removed before it and written again after it.
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
    """Check that the write-ahead log belongs to this ledger.

    Raises LedgerError if the ledger was replaced while its log still held changes.
    """
    before = _read_pair(ledger)
    if before is None or not _is_foreign(ledger, before):
        return
    if _read_pair(ledger) != before:  # the daemon has just run a checkpoint
        return
    log = log_files(ledger)[0]
    raise LedgerError(
        f"{ledger} was replaced, but {log.name} beside it still has changes of the previous one",
        hint=(
            f"To use the new file: speakeasyd ledger restore {ledger}\n"
            "To use another copy: speakeasyd ledger restore FILE\n"
            "Both keep the present files under another name. "
            "Otherwise the old changes would overwrite the copy."
        ),
    )


def note_pair(ledger: Path) -> None:
    """Record that this log belongs to this database."""
    try:
        main, log = ledger.stat(), log_files(ledger)[0].stat()
    except FileNotFoundError:
        return
    _write_pair(ledger, {"main": main.st_ino, "mtime_ns": main.st_mtime_ns, "log": log.st_ino})


@contextmanager
def changing_database(ledger: Path) -> Iterator[None]:
    """Wrap a checkpoint. If the process is killed inside it, no pair is recorded."""
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
    # the log is empty, or the whole folder was copied
    if log.st_size == 0 or log.st_ino != pair["log"]:
        return False
    if main.st_ino != pair["main"] or main.st_mtime_ns > pair["mtime_ns"]:
        return True
    if main.st_mtime_ns == pair["mtime_ns"]:
        return False
    import psutil  # noqa: PLC0415 - rarely needed, and every command runs this function

    # SQLite syncs the content but not the time of the file: it may be older after a power failure
    rebooted = psutil.boot_time() > marked_at
    return not rebooted


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
