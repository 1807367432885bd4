"""Readable transcripts: sanitised text, formatted times, speakers and paragraphs."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from speakeasyd.domain.transcript import Segment, Transcript

PAUSE_S = 2.0  # seconds of silence that begin a new paragraph
ENOUGH = 700  # characters after which a paragraph ends at the next end of a sentence
STOPS = tuple(
    ".!?\u2026\u3002\uff01\uff1f\u061f\u0964"
)  # ends of sentences in Latin, CJK, Arabic and Devanagari scripts

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
    """A paragraph of a transcript."""

    start: float  # seconds in the file
    text: str
    speaker: str = ""
    gap: bool = False  # a note about missing text, not text that was spoken

    @property
    def spoken(self) -> str:
        """The text, with the label of its speaker if there is one."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


def strip_controls(text: str) -> str:
    """Return the text without control characters, with plain spaces as the only white space.

    Lone surrogates become U+FFFD.
    """
    return "".join(" " if char.isspace() else char for char in text.translate(_UNPRINTABLE))


def join_lines(text: str) -> str:
    """Return the text without control characters, with single spaces between the words."""
    return " ".join(strip_controls(text).split())


def format_clock(seconds: float) -> str:
    """Format seconds as `01:05`, or as `1:01:05` from one hour."""
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute:02}:{second:02}"


def format_speaker(segment: Segment, transcript: Transcript) -> str:
    """Return the label of a segment: the name of its speaker, else its channel and track.

    Empty if there is none, and if the only speaker of the transcript has no name.
    """
    if not transcript.speakers:
        return format_lane(segment.channel, segment.track)
    if len(transcript.speakers) == 1 and not transcript.speakers[0].name:
        return ""
    labels = (one.label for one in transcript.speakers if one.number == segment.speaker)
    return join_lines(next(labels, ""))


def format_lane(channel: int | None, track: int | None) -> str:
    """Return `Left`, `Track 2` or `Track 2 left`; empty if neither channels nor tracks are separate."""
    name = "" if channel is None else _name_channel(channel)
    return name if track is None else f"Track {track} {name.lower()}".rstrip()


def _name_channel(channel: int) -> str:
    """Return the label of a channel; 0 is left."""
    return ("Left", "Right")[channel] if channel < 2 else f"Channel {channel + 1}"


def ends_with(text: str, marks: tuple[str, ...]) -> bool:
    """Return whether the text ends with one of the marks, ignoring closing quotes and brackets."""
    return text.rstrip(_CLOSERS).endswith(marks)


def format_gap(start: float, end: float) -> str:
    """Return the note that replaces the text of a gap; times in seconds in the file."""
    return f"[gap {format_clock(start)}-{format_clock(end)}: could not be transcribed]"


def build_paragraphs(transcript: Transcript) -> Iterator[Paragraph]:
    """Yield the paragraphs in order of time.

    A new one begins at a long pause, at a change of the speaker, and after `ENOUGH` characters.
    """
    gathered: list[Segment] = []
    items: list[Segment | tuple[float, float]] = [*transcript.segments, *transcript.gaps]
    for item in sorted(items, key=_start_of):
        if gathered and (isinstance(item, tuple) or _starts_paragraph(gathered, item, transcript)):
            yield from _join_segments(gathered, transcript)
            gathered = []
        if isinstance(item, tuple):
            yield Paragraph(item[0], format_gap(*item), gap=True)
        else:
            gathered.append(item)
    yield from _join_segments(gathered, transcript)


def _start_of(item: Segment | tuple[float, float]) -> float:
    return item[0] if isinstance(item, tuple) else item.start


def _starts_paragraph(gathered: list[Segment], segment: Segment, transcript: Transcript) -> bool:
    last = gathered[-1]
    speaker, last_speaker = (format_speaker(one, transcript) for one in (segment, last))
    if speaker != last_speaker or segment.start - last.end >= PAUSE_S:
        return True
    return ends_with(last.text, STOPS) and sum(len(part.text) for part in gathered) >= ENOUGH


def _join_segments(segments: list[Segment], transcript: Transcript) -> Iterator[Paragraph]:
    text = join_lines("".join(segment.text for segment in segments))
    if text:
        yield Paragraph(segments[0].start, text, format_speaker(segments[0], transcript))
