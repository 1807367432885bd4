"""The results as a table for the terminal and the docs, as JSON, and as a chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median, quantiles

from benchmarks.measure import Measured

Rounds = Mapping[str, Sequence[Measured]]  # by contender, one a round; the first contender is ours


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    seconds: Spread
    cpu_s: Spread
    ratio: Spread  # over the rounds: its time divided by ours in the same round
    wrong: float  # percent of words
    peak_mb: float
    cores_busy: float  # percent


def lines(rounds: Rounds, wrong: Mapping[str, float]) -> list[Line]:
    ours = next(iter(rounds.values()))
    return [
        Line(
            name,
            spread([one.seconds for one in runs]),
            spread([one.cpu_s for one in runs]),
            spread([one.seconds / mine.seconds for one, mine in zip(runs, ours, strict=True)]),
            wrong[name],
            max(one.peak_mb for one in runs),
            median(one.cores_busy for one in runs),
        )
        for name, runs in rounds.items()
    ]


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*quantiles(values, n=4, method="inclusive"))


def table(lines: Sequence[Line]) -> str:
    head = (
        "| | seconds | ratio to speakeasyd | CPU seconds | word error rate | peak memory | CPU use |",
        "|---" * 7 + "|",
    )
    rows = (
        f"| {x.name} | {x.seconds} | {x.ratio} | {x.cpu_s.middle:.1f} | {x.wrong:.2f} % "
        f"| {x.peak_mb:.0f} MB | {x.cores_busy:.0f} % |"
        for x in lines
    )
    return "\n".join((*head, *rows))


def picture(title: str, lines: Sequence[Line]) -> str:
    """Return a bar chart of seconds as SVG, readable on light and dark backgrounds."""
    longest, height = max(line.seconds.middle for line in lines), 26 * len(lines) + 40
    bars = "".join(_bar(number, line, longest) for number, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" '
        f'font-family="sans-serif" font-size="13" fill="#888"><text x="8" y="18">{escape(title)}</text>{bars}</svg>\n'
    )


def _bar(number: int, line: Line, longest: float) -> str:
    seconds = line.seconds.middle
    y, width = 32 + 26 * number, max(2.0, 440 * seconds / longest)
    colour = "#2a9d6f" if number == 0 else "#8a94a6"
    return (
        f'<text x="8" y="{y + 14}">{escape(line.name)}</text>'
        f'<rect x="210" y="{y}" width="{width:.0f}" height="18" rx="3" fill="{colour}"/>'
        f'<text x="{218 + width:.0f}" y="{y + 14}">{seconds:.0f} s</text>'
    )
