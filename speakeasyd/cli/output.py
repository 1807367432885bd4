"""What commands print: tables for people, JSON and CSV for scripts.

All output passes `domain.escaping`, so that no file name and no transcript can command the terminal.
"""

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from speakeasyd.cli.tables import format_cell, plan_layout, record_lines, style_of, table_lines
from speakeasyd.domain.escaping import escape_json, escape_line, escape_text
from speakeasyd.ledger.rows import Row

UNLIMITED = 100_000  # columns: off a terminal no line is wrapped or cut


class SafeConsole(Console):
    """Takes text as it is, without markup, and escapes control characters wherever they come from."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_text(text), **options)

    def render_text(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_text(text), style, control)


def console() -> Console:
    width = None if is_terminal() else UNLIMITED
    return SafeConsole(highlight=False, markup=False, emoji=False, soft_wrap=False, width=width)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def print_text(text: str) -> None:
    """Text of any number of lines, without wrapping it."""
    sys.stdout.write(f"{escape_text(text)}\n")


def print_json(value: object) -> None:
    document = json.dumps(value, indent=2, ensure_ascii=False, default=_format_cell)
    sys.stdout.write(f"{escape_json(document)}\n")


def print_csv(rows: Sequence[Row]) -> None:
    """CSV has no escapes: a script gets every character as it is, a terminal none that would command it."""
    if not rows:
        return
    escape = escape_text if is_terminal() else str
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(escape, rows[0]))
    for row in rows:
        writer.writerow(
            escape(_format_cell(value)) if isinstance(value, bytes | str) else value
            for value in row.values()
        )


def print_rows(rows: Sequence[Row], *, by_line: bool = False, header: bool = True) -> None:
    """A table, a column for each key of the first row. `by_line`: each field on a line of its own instead."""
    if by_line:
        _print_lines(record_lines(rows))
        return
    width = shutil.get_terminal_size().columns if is_terminal() else None
    layout = plan_layout(rows, width, header=header)
    _print_lines(table_lines(rows, layout, header=header))
    if layout.left_out:
        sys.stdout.flush()
        sys.stderr.write(
            f"({layout.left_out} columns do not fit; --line shows all, one on each line)\n"
        )


def _print_lines(lines: Iterator[Text]) -> None:
    """Without styles rich is not asked: a table may have a hundred thousand rows."""
    out = console()
    for line in lines:
        if out.color_system is None:
            sys.stdout.write(f"{line.plain}\n")
        else:
            out.print(line, no_wrap=True, overflow="ignore", crop=False)


def build_cell(name: str, value: object) -> Text:
    return Text(format_cell(name, value), style_of(name, value))


def escape_strings(value: Any) -> Any:
    """A structure of dictionaries and lists, each string in it fit for one line of a terminal."""
    match value:
        case str():
            return escape_line(value)
        case dict():
            return {escape_strings(key): escape_strings(inner) for key, inner in value.items()}
        case list():
            return [escape_strings(inner) for inner in value]
        case _:
            return value


def _format_cell(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_position(seconds: float) -> str:
    """A place in a file: `1:02:03`, `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_local_time(moment: object) -> str:
    """Return a time of the ledger in the local time zone."""
    return f"{datetime.fromisoformat(str(moment)).astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""
