"""What commands print: tables for people, JSON and CSV for scripts."""

import csv
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from speakeasyd.ledger.reading import Row

STATUS_STYLES = {
    "pending": "cyan",
    "processing": "bold blue",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "skipped": "dim",
}


def console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_as_text)
    sys.stdout.write("\n")


def print_csv(rows: Sequence[Row]) -> None:
    if rows:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: _as_text(value) if isinstance(value, bytes) else value for key, value in row.items()} for row in rows
        )


def table(rows: Sequence[Row], *, keep: str | None = None) -> Table:
    """A column for each key of the first row. Where there is not enough room, only the column `keep` gets smaller."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        grid.add_column(
            name, justify="right" if numeric else "left", overflow="fold", no_wrap=keep is not None and name != keep
        )
    for row in rows:
        grid.add_row(*(cell(name, value) for name, value in row.items()))
    return grid


def cell(name: str, value: object) -> Text:
    match value:
        case None:
            return Text("")
        case float():
            return Text(f"{value:.0%}" if name == "progress" else f"{value:.1f}")
        case str() if name == "status":
            return Text(value, style=STATUS_STYLES.get(value, ""))
        case _:
            return Text(_as_text(value))


def _as_text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def position(seconds: float) -> str:
    """A place in a file: `1:02:03`, `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def local(moment: object) -> str:
    """A time of the ledger, in the time zone of who reads it."""
    return f"{datetime.fromisoformat(str(moment)).astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""


def age(moment: object) -> float:
    """Seconds since a time of the ledger."""
    return (datetime.now(UTC) - datetime.fromisoformat(str(moment))).total_seconds()
