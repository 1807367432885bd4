"""Rows as tables for terminals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from speakeasyd.cli.tables import plan_layout, record_lines, table_lines
from speakeasyd.ledger.readonly import Row

WHEN = "2026-11-28T20:20:36.123Z"
ROWS: list[Row] = [
    {
        "job_id": 7,
        "audio_seconds": 1234.5,
        "path": "a folder/a long name of a file.flac",
        "created_at": WHEN,
    },
    {"job_id": 12, "audio_seconds": None, "path": "短い.wav", "created_at": WHEN},
]


def render_lines(rows: list[Row], width: int | None, *, header: bool = True) -> list[str]:
    return [
        line.plain
        for line in table_lines(rows, plan_layout(rows, width, header=header), header=header)
    ]


def test_without_a_terminal_the_width_is_unlimited() -> None:
    assert render_lines(ROWS, None) == [
        "job_id  audio_seconds  path                                 created_at",
        "     7         1234.5  a folder/a long name of a file.flac  2026-11-28T20:20:36.123Z",
        "    12                 短い.wav                             2026-11-28T20:20:36.123Z",
    ]


def test_on_a_terminal_the_longest_cells_are_shortened_first() -> None:
    assert render_lines(ROWS, 72) == [
        "job_id  audio_seconds  path                     created_at",
        "     7         1234.5  a folder/a long name o…  2026-11-28T20:20:36.123Z",
        "    12                 短い.wav                 2026-11-28T20:20:36.123Z",
    ]


def test_numbers_are_never_shortened() -> None:
    narrow = render_lines(ROWS, 42)
    assert narrow[0].startswith("job_id  audio_sec…  path")
    assert "1234.5" in narrow[1]


def test_columns_without_room_are_hidden_and_marked() -> None:
    rows: list[Row] = [{f"column_{number}": "some words of text" for number in range(30)}]
    layout = plan_layout(rows, 80)
    lines = [line.plain for line in table_lines(rows, layout)]
    assert layout.left_out == 30 - len(layout.columns) > 0
    assert all(line.endswith("…") and cell_len(line) <= 80 for line in lines)


def test_one_field_on_each_line() -> None:
    assert [line.plain for line in record_lines(ROWS)][:6] == [
        "       job_id = 7",
        "audio_seconds = 1234.5",
        "         path = a folder/a long name of a file.flac",
        f"   created_at = {WHEN}",
        "",
        "       job_id = 12",
    ]


@pytest.mark.parametrize("header", [True, False])
@given(
    table=st.integers(1, 8).flatmap(
        lambda columns: st.lists(
            st.lists(
                st.one_of(st.none(), st.integers(), st.text()), min_size=columns, max_size=columns
            ),
            min_size=1,
        )
    ),
    width=st.integers(20, 200),
)
def test_one_line_for_each_row_no_wider_than_the_terminal(
    header: bool, table: list[list[object]], width: int
) -> None:
    rows: list[Row] = [
        {f"column {number}": value for number, value in enumerate(row)} for row in table
    ]
    lines = render_lines(rows, width, header=header)
    assert len(lines) == len(rows) + header
    assert all(cell_len(line) <= width for line in lines)
    assert not any("\n" in line or "\x1b" in line for line in lines)
