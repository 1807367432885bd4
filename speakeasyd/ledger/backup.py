"""Copies of the ledger, made before anything changes its schema."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

KEEP = 3  # copies


def back_up(path: Path, *, label: str) -> Path:
    """Copy the ledger into the folder `backups` beside it, durably, and remove the oldest copies. Returns the copy.

    `VACUUM INTO` reads one consistent state, whoever writes meanwhile, and takes the write-ahead log in.
    """
    folder = path.parent / "backups"
    folder.mkdir(exist_ok=True)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    copy = folder / f"{path.stem}-{moment}-{label}{path.suffix}"
    unfinished = copy.with_suffix(".part")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(unfinished),))
        with unfinished.open("r+b") as file:  # SQLite does not sync the copy itself
            os.fsync(file.fileno())
        unfinished.replace(copy)
    finally:
        unfinished.unlink(missing_ok=True)
    for old in sorted(folder.glob(f"{path.stem}-*{path.suffix}"))[:-KEEP]:
        old.unlink()
    return copy
