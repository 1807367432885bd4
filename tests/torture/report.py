"""Renders the results as a Markdown table and writes it into the documentation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.torture.scenario import Run

PAGE = REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- made by `make torture`: begin -->", "<!-- made by `make torture`: end -->"
HEADINGS = (
    "fault",
    "rounds",
    "files lost",
    "duplicate transcripts",
    "wrong text",
    "other errors",
    "worker restarts",
    "recovery, median s",
    "worst s",
    "stand-still, s",
)


def render_table(runs: Iterable[Run]) -> str:
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *map(_render_row, runs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _render_row(run: Run) -> Sequence[str]:
    counts = (str(run.count_violations(kind)) for kind in ("lost", "doubled", "wrong", "other"))
    return (
        run.fault,
        str(run.rounds),
        *counts,
        str(run.restarts),
        _format_seconds(run.median_recovery_s),
        _format_seconds(run.worst_recovery_s),
        _format_seconds(run.longest_standstill_s),
    )


def _format_seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def write_page(text: str, page: Path = PAGE) -> None:
    """Replace the text between the marks."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
