"""Line breaking for subtitles in any script: widths, allowed breaks, layout in two lines."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from speakeasyd.domain.readable_text import strip_controls
from speakeasyd.domain.transcript import Word

COLUMNS = 42  # columns of a line; a full-width character takes two
LONGEST_PIECE = 30  # columns; a longer word is broken to leave room for a speaker's label

_NEVER_FIRST = frozenset(
    {"Pe", "Pf", "Po", "Lm"}
)  # Unicode categories: closing, other punctuation, repetition
_NEVER_LAST = frozenset({"Ps", "Pi"})  # opening
_SMALL_KANA = "ァィゥェォッャュョヮぁぃぅぇぉっゃゅょゎ"
_JOINER = "\u200d"
_BY_WORDS = re.compile(
    "[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]"
)  # Hangul: wide, but written with spaces


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is never broken: a word, or a character of a script without spaces."""

    text: str
    start: float  # seconds
    end: float  # seconds
    spaced: bool  # a space precedes it
    columns: int  # with that space


def measure_width(text: str) -> int:
    """Return the columns that a text takes in a monospaced font."""
    return len(text) if text.isascii() else sum(map(_measure_char, text))


@lru_cache(maxsize=8192)
def _measure_char(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def split_into_pieces(words: Sequence[Word]) -> list[Piece]:
    """Return the timed pieces of these words; characters of a word take equal times."""
    texts = [strip_controls(word.text) for word in words]
    offsets = [0, *accumulate(map(len, texts))]
    starts = [
        offset + len(text) - len(text.lstrip())
        for offset, text in zip(offsets, texts, strict=False)
    ]
    lengths = [max(1, len(text.strip())) for text in texts]

    def moment(position: int, *, ends: bool) -> float:
        index = max(0, min(bisect_right(offsets, position - ends) - 1, len(words) - 1))
        word = words[index]
        fraction = min(1.0, max(0, position - starts[index]) / lengths[index])
        return max(0.0, word.start + (max(word.end, word.start) - word.start) * fraction)

    found: list[Piece] = []
    for run in re.finditer(r"\S+", "".join(texts)):
        for begin, end in _find_unbreakable_runs(run.group()):
            first, last = run.start() + begin, run.start() + end
            text, spaced = run.group()[begin:end], begin == 0 and bool(found)
            found.append(
                Piece(
                    text,
                    moment(first, ends=False),
                    moment(last, ends=True),
                    spaced,
                    measure_width(text) + spaced,
                )
            )
    return found


def break_lines(part: Sequence[Piece], indent: int = 0) -> list[str] | None:
    """Return the text in one line, or in two of about equal width; None if it does not fit.

    `indent`: columns that are taken at the start of the first line.
    """
    left, whole = indent, indent + _measure_pieces(part)
    if whole <= COLUMNS:
        return [join_pieces(part)]
    if whole > 2 * COLUMNS + 1:  # the space at the break takes no column
        return None
    best: tuple[float, int] | None = None
    for cut in range(1, len(part)):
        left += part[cut - 1].columns - (part[cut - 1].spaced if cut == 1 else 0)
        right = whole - left - part[cut].spaced
        if left <= COLUMNS and right <= COLUMNS:
            # Prefer an even split, a split after punctuation, and a longer second line
            unevenness = abs(left - right) + (2 if left > right else 0)
            unevenness -= 8 if unicodedata.category(part[cut - 1].text[-1]).startswith("P") else 0
            best = min(best or (unevenness, cut), (unevenness, cut))
    return [join_pieces(part[: best[1]]), join_pieces(part[best[1] :])] if best else None


def join_pieces(part: Sequence[Piece]) -> str:
    return "".join(
        " " * (piece.spaced and index > 0) + piece.text for index, piece in enumerate(part)
    )


def _measure_pieces(part: Sequence[Piece]) -> int:
    return sum(piece.columns for piece in part) - part[0].spaced


def _find_unbreakable_runs(run: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of the pieces of a text without spaces."""
    if run.isascii() and len(run) <= LONGEST_PIECE:  # most words, and their characters take time
        yield 0, len(run)
        return
    begin, columns = 0, _measure_char(run[0])
    for here in range(1, len(run)):
        more = _measure_char(run[here])
        too_long = columns + more > LONGEST_PIECE and more > 0
        if too_long or _is_break_allowed(run[here - 1], run[here]):
            yield begin, here
            begin, columns = here, 0
        columns += more
    yield begin, len(run)


def _is_break_allowed(before: str, after: str) -> bool:
    if _JOINER in (before, after) or _measure_char(after) == 0 or after in _SMALL_KANA:
        return False
    if unicodedata.category(after) in _NEVER_FIRST or unicodedata.category(before) in _NEVER_LAST:
        return False
    return any(_measure_char(char) == 2 and not _BY_WORDS.match(char) for char in (before, after))
