"""Lays rows out as a table: as wide as it has to be, or cut to a terminal's width, one line for each row.

The psql and sqlite3 shells do the same. A row never takes a second line, and no word or date is broken over lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from speakeasyd.domain.escaping import escape_line
from speakeasyd.domain.job import Status
from speakeasyd.ledger.rows import Row

GAP = "  "  # between two cells
LEAST = 10  # columns of the terminal that a cut cell keeps at least
ELLIPSIS = "…"
HEADER_STYLE = "bold"

STATUS_STYLES: Mapping[str, str] = {
    Status.PENDING: "cyan",
    Status.PROCESSING: "bold blue",
    Status.COMPLETED: "green",
    Status.FAILED: "bold red",
    Status.CANCELLED: "yellow",
    Status.SKIPPED: "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    numeric: bool
    width: int  # of the longest cell, the header included
    least: int  # it is not cut below this


@dataclass(frozen=True, slots=True)
class Layout:
    columns: Sequence[Column]
    widths: Sequence[int]
    left_out: int  # columns for which there is no room


def format_cell(name: str, value: object) -> str:
    """A value on one line, without control characters."""
    match value:
        case None:
            return ""
        case float() if name == "progress":
            return f"{value:.0%}"
        case float():
            return f"{value:.1f}"
        case bytes():
            return escape_line(value.decode(errors="replace"))
        case _:
            return escape_line(str(value))


def style_of(name: str, value: object) -> str:
    return STATUS_STYLES.get(str(value), "") if name == "status" else ""


def plan_layout(rows: Sequence[Row], width: int | None, *, header: bool = True) -> Layout:
    """How wide each column is within `width`; None: as wide as its longest cell."""
    columns = [_measure_columns(name, rows, header=header) for name in rows[0]] if rows else []
    if width is None:
        return Layout(columns, [column.width for column in columns], 0)
    room, kept = width, list(columns)
    while len(kept) > 1 and _total_width([column.least for column in kept]) > room:
        kept.pop()
        room = width - len(GAP + ELLIPSIS)
    if len(kept) == 1:
        kept = [replace(kept[0], least=1)]
    return Layout(kept, _shrink_columns(kept, room), len(columns) - len(kept))


def table_lines(rows: Sequence[Row], layout: Layout, *, header: bool = True) -> Iterator[Text]:
    if header:
        names: Row = {column.name: column.name for column in layout.columns}
        yield _format_row(names, layout, header=True)
    for row in rows:
        yield _format_row(row, layout)


def record_lines(rows: Sequence[Row]) -> Iterator[Text]:
    """One field a line, as the line mode of sqlite3 and the expanded display of psql."""
    names = [escape_line(name) for name in rows[0]] if rows else []
    widest = max(map(cell_len, names), default=0)
    for number, row in enumerate(rows):
        if number:
            yield Text("")
        for (name, value), shown in zip(row.items(), names, strict=True):
            padding = " " * (widest - cell_len(shown))
            cell = Text(format_cell(name, value), style_of(name, value))
            yield Text.assemble(padding, (shown, HEADER_STYLE), " = ", cell)


def _measure_columns(name: str, rows: Sequence[Row], *, header: bool) -> Column:
    values = [row[name] for row in rows]
    numeric = all(isinstance(value, int | float | None) for value in values)
    content = max((cell_len(format_cell(name, value)) for value in values), default=0)
    width = max(content, cell_len(escape_line(name)) if header else 0)
    least = max(content, min(width, LEAST)) if numeric else min(width, LEAST)
    return Column(name, numeric, width, least)


def _shrink_columns(columns: Sequence[Column], room: int) -> list[int]:
    """Take from the widest column that can still give, until all fit."""
    widths = [column.width for column in columns]
    while (excess := _total_width(widths) - room) > 0:
        givers = [number for number, column in enumerate(columns) if widths[number] > column.least]
        if not givers:
            break
        widest = max(givers, key=widths.__getitem__)
        others = [widths[number] for number in givers if number != widest]
        goal = max([columns[widest].least, *(width for width in others if width < widths[widest])])
        widths[widest] -= max(1, min(excess, widths[widest] - goal))
    return widths


def _total_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * max(0, len(widths) - 1)


def _format_row(row: Row, layout: Layout, *, header: bool = False) -> Text:
    line = Text()
    for column, width in zip(layout.columns, layout.widths, strict=True):
        value = row[column.name]
        cell = escape_line(column.name) if header else format_cell(column.name, value)
        style = HEADER_STYLE if header else style_of(column.name, value)
        cut = _truncate_cell(cell, width)
        padding = " " * (width - cell_len(cut))
        line.append(GAP if line else "")
        line.append(f"{padding}{cut}" if column.numeric else f"{cut}{padding}", style)
    if layout.left_out:
        line.append(f"{GAP}{ELLIPSIS}")
    line.rstrip()
    return line


def _truncate_cell(cell: str, width: int) -> str:
    return cell if cell_len(cell) <= width else set_cell_size(cell, width - 1).rstrip() + ELLIPSIS
