"""Transcripts as people read them: text that cannot break a format, times, speakers and paragraphs."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from speakeasyd.domain.transcript import Segment, Transcript

PAUSE_S = 2.0  # seconds of silence that begin a new paragraph
ENOUGH = 700  # characters after which a paragraph ends with its sentence
STOPS = tuple(
    ".!?\u2026\u3002\uff01\uff1f\u061f\u0964"
)  # that end a sentence in Latin, CJK, Arabic, Devanagari

_CLOSERS = " \"'\u201d\u2019\u00bb\u300d\u300f)]"
_CONTROLS = [
    code
    for code in range(0xA0)
    if unicodedata.category(chr(code)) == "Cc" and not chr(code).isspace()
]
_UNPRINTABLE: dict[int, str | None] = {
    **dict.fromkeys([*_CONTROLS, 0xFEFF, 0xFFFE, 0xFFFF]),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


@dataclass(frozen=True, slots=True)
class Paragraph:
    start: float  # seconds in the file
    text: str
    channel: int | None = None
    gap: bool = False  # not what was said, but the word that it is missing

    @property
    def spoken(self) -> str:
        """The text, with its speaker where channels are apart."""
        return self.text if self.channel is None else f"{format_speaker(self.channel)}: {self.text}"


def strip_controls(text: str) -> str:
    """Without control characters and half surrogates; every kind of white space is a plain one."""
    return "".join(" " if char.isspace() else char for char in text.translate(_UNPRINTABLE))


def join_lines(text: str) -> str:
    """Printable, and nothing but single spaces between the words."""
    return " ".join(strip_controls(text).split())


def format_clock(seconds: float) -> str:
    """`01:05`, or `1:01:05` from an hour on."""
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute:02}:{second:02}"


def format_speaker(channel: int) -> str:
    return ("Left", "Right")[channel] if channel < 2 else f"Channel {channel + 1}"


def ends_with(text: str, marks: tuple[str, ...]) -> bool:
    """Whether the text ends with one of these, closing quotes and brackets aside."""
    return text.rstrip(_CLOSERS).endswith(marks)


def format_gap(start: float, end: float) -> str:
    return f"[gap {format_clock(start)}-{format_clock(end)}: could not be transcribed]"


def build_paragraphs(transcript: Transcript) -> Iterator[Paragraph]:
    """In order of time; a new one at a long pause, at another speaker, and where the last one is long enough."""
    gathered: list[Segment] = []
    items: list[Segment | tuple[float, float]] = [*transcript.segments, *transcript.gaps]
    for item in sorted(items, key=_start_of):
        if gathered and (isinstance(item, tuple) or _starts_paragraph(gathered, item)):
            yield from _join_segments(gathered)
            gathered = []
        if isinstance(item, tuple):
            yield Paragraph(item[0], format_gap(*item), gap=True)
        else:
            gathered.append(item)
    yield from _join_segments(gathered)


def _start_of(item: Segment | tuple[float, float]) -> float:
    return item[0] if isinstance(item, tuple) else item.start


def _starts_paragraph(gathered: list[Segment], segment: Segment) -> bool:
    last = gathered[-1]
    if segment.channel != last.channel or segment.start - last.end >= PAUSE_S:
        return True
    return ends_with(last.text, STOPS) and sum(len(one.text) for one in gathered) >= ENOUGH


def _join_segments(segments: list[Segment]) -> Iterator[Paragraph]:
    text = join_lines("".join(segment.text for segment in segments))
    if text:
        yield Paragraph(segments[0].start, text, segments[0].channel)
