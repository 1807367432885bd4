"""The table, as Markdown, and its place in the documentation."""

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


def table(runs: Iterable[Run]) -> str:
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *map(_row, runs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(run: Run) -> Sequence[str]:
    harms = (str(run.harm(kind)) for kind in ("lost", "doubled", "wrong", "other"))
    return (
        run.fault,
        str(run.rounds),
        *harms,
        str(run.restarts),
        _seconds(run.median_s),
        _seconds(run.worst_s),
        _seconds(run.longest_still_s),
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def write(text: str, page: Path = PAGE) -> None:
    """Put the text between the marks."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
