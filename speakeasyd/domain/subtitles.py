"""Subtitles by common guidelines: at most two short lines, enough reading time, no overlap."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, zip_longest

from speakeasyd.domain.readable_text import STOPS, ends_with, format_gap, format_speaker
from speakeasyd.domain.transcript import Segment, Transcript, Word
from speakeasyd.domain.typesetting import Piece, break_lines, measure_width, split_into_pieces

SHORTEST_S = 1.0  # seconds that a cue is shown at least, unless the next one begins earlier
LONGEST_S = 7.0  # seconds that a cue is shown at most
FLASH_S = 0.3  # seconds that a cue is shown at least, even if many follow closely
LATE_S = 2.0  # seconds that a cue may be late, so that earlier ones can be read
FLICKER_S = 0.5  # seconds; a shorter pause between two cues is closed
SPEED = 17.0  # reading speed in columns a second
PAUSE_S = 2.0  # seconds of silence that split a segment

_CLAUSES = tuple(",;:\u2014\u3001\uff0c\uff1b\uff1a\u060c")
_MIDDLE = 0.2, 0.8  # where a text may be split, in fractions of its width


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle."""

    start: float  # seconds in the file
    end: float  # seconds in the file
    lines: tuple[str, ...]  # one or two
    speaker: str = ""  # label of the speaker or channel

    @property
    def columns(self) -> int:
        return sum(map(measure_width, self.lines))


def render_srt(transcript: Transcript) -> str:
    blocks = []
    for number, cue in enumerate(build_cues(transcript), 1):
        # Parsers read "-->" as a line of times
        text = "\n".join(_label_lines(cue)).replace("-->", "->")
        blocks.append(
            f"{number}\n{_format_time(cue.start, ',')} --> {_format_time(cue.end, ',')}\n{text}\n"
        )
    return "\n".join(blocks)


def render_vtt(transcript: Transcript) -> str:
    blocks = ["WEBVTT\n"]
    for cue in build_cues(transcript):
        text = _escape_markup("\n".join(cue.lines))
        voice = f"<v {_escape_markup(cue.speaker)}>" if cue.speaker else ""
        blocks.append(
            f"{_format_time(cue.start, '.')} --> {_format_time(cue.end, '.')}\n{voice}{text}\n"
        )
    return "\n".join(blocks)


def _escape_markup(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def build_cues(transcript: Transcript) -> list[Cue]:
    """Return the cues in order, without overlap; each channel and track keeps its word order."""
    by_lane = sorted(transcript.segments, key=_lane_of)
    tracks = [list(_draft_cues(lane, transcript)) for _, lane in groupby(by_lane, key=_lane_of)]
    gaps = [
        Segment(start, min(end, start + LONGEST_S), format_gap(start, end), 0.0, 0.0, 0.0)
        for start, end in transcript.gaps
    ]
    return list(
        _extend_cues(
            list(merge(*tracks, _draft_cues(gaps, transcript), key=lambda cue: cue.start)),
            transcript.audio_seconds,
        )
    )


def _lane_of(segment: Segment) -> tuple[int, int]:
    """Its track and channel."""
    return segment.track or 0, -1 if segment.channel is None else segment.channel


def _label_lines(cue: Cue) -> Sequence[str]:
    return (f"{cue.speaker}: {cue.lines[0]}", *cue.lines[1:]) if cue.speaker else cue.lines


def _draft_cues(segments: Iterable[Segment], transcript: Transcript) -> Iterator[Cue]:
    """Yield cues with the times of the sound, regardless of reading time."""
    for segment in segments:
        label = format_speaker(segment, transcript)
        # Columns that the label takes before the first line of an srt
        indent = measure_width(label) + 2 if label else 0
        for stretch in _split_at_pauses(split_into_pieces(_words_of(segment))):
            for part in _split_to_fit(stretch, indent):
                yield Cue(
                    part[0].start, part[-1].end, tuple(break_lines(part, indent) or ()), label
                )


def _words_of(segment: Segment) -> Sequence[Word]:
    """Return the segment's words if they match its text.

    Else the whole text is one long word, over which times are interpolated.
    """
    spelt = "".join(word.text for word in segment.words)
    if "".join(spelt.split()) == "".join(segment.text.split()):
        return segment.words
    return [Word(segment.start, segment.end, segment.text, 1.0)]


def _split_at_pauses(all_pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    begin = 0
    for here in range(1, len(all_pieces)):
        if all_pieces[here].start - all_pieces[here - 1].end >= PAUSE_S:
            yield all_pieces[begin:here]
            begin = here
    if all_pieces:
        yield all_pieces[begin:]


def _split_to_fit(part: Sequence[Piece], indent: int) -> Iterator[Sequence[Piece]]:
    """Yield parts that fit two lines. A part that lasts too long is split unless it is one line."""
    laid_out = break_lines(part, indent)
    if len(part) == 1 or (
        laid_out and (len(laid_out) == 1 or part[-1].end - part[0].start <= LONGEST_S)
    ):
        yield part
    else:
        cut = _find_best_cut(part)
        yield from _split_to_fit(part[:cut], indent)
        yield from _split_to_fit(part[cut:], indent)


def _find_best_cut(part: Sequence[Piece]) -> int:
    """Return the index before which to split.

    Prefers the middle, and the end of a sentence, of a clause or a pause.
    """
    columns = [0]
    for piece in part:
        columns.append(columns[-1] + piece.columns)
    places = [columns[cut] / columns[-1] for cut in range(len(part))]
    low, high = _MIDDLE
    allowed = [cut for cut in range(1, len(part)) if low <= places[cut] <= high] or range(
        1, len(part)
    )
    return min(
        allowed, key=lambda cut: abs(places[cut] - 0.5) + _score_cut(part[cut - 1], part[cut])
    )


def _score_cut(before: Piece, after: Piece) -> float:
    """Return the penalty of a cut here, 0 to 1."""
    if ends_with(before.text, STOPS):
        return 0.0
    if ends_with(before.text, _CLAUSES):
        return 0.15
    if after.start - before.end >= 0.4:
        return 0.2
    return 0.4 if after.spaced else 0.5


def _extend_cues(drafts: Sequence[Cue], audio_seconds: float) -> Iterator[Cue]:
    """Extend each cue to its reading time, into the silence after it, but not into the next cue.

    If cues follow closely, a cue is shortened and the next may begin up to `LATE_S` late.
    """
    free = 0.0  # the end of the cue before
    for draft, following in zip_longest(drafts, drafts[1:]):
        start = max(draft.start, free)
        sounding = max(draft.end - draft.start, FLASH_S)
        least = min(sounding, FLASH_S if start - draft.start > LATE_S else SHORTEST_S)
        wanted = min(max(sounding, SHORTEST_S, draft.columns / SPEED), LONGEST_S)
        room = following.start if following else max(draft.end, audio_seconds)
        end = start + wanted if room - start - wanted > FLICKER_S else room
        free = max(start + least, end)
        yield Cue(start, free, draft.lines, draft.speaker)


def _format_time(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}{point}{milliseconds:03}"
