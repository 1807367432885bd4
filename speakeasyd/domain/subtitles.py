"""Subtitles by the habits of the field: two short lines, time to read them, one cue after the other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import groupby, zip_longest

from speakeasyd.domain.readable_text import STOPS, ends_with, format_gap, format_speaker
from speakeasyd.domain.transcript import Segment, Transcript, Word
from speakeasyd.domain.typesetting import Piece, break_lines, measure_width, split_into_pieces

SHORTEST_S = 1.0  # seconds that a cue stays, if the next one lets it
LONGEST_S = 7.0  # seconds after which a cue goes, however long its sound
FLASH_S = 0.3  # seconds that even a cue in a crowd stays
LATE_S = 2.0  # seconds that a cue may come late, so that the ones before it can be read
FLICKER_S = 0.5  # seconds of nothing between two cues that are not worth a blink
SPEED = 17.0  # columns that people read in a second
PAUSE_S = 2.0  # seconds of silence inside a segment that part it

_CLAUSES = tuple(",;:\u2014\u3001\uff0c\uff1b\uff1a\u060c")
_MIDDLE = 0.2, 0.8  # where to part a text, in fractions of its width


@dataclass(frozen=True, slots=True)
class Cue:
    start: float  # seconds in the file
    end: float  # seconds in the file
    lines: tuple[str, ...]  # one or two
    speaker: str = ""  # where channels are apart

    @property
    def columns(self) -> int:
        return sum(map(measure_width, self.lines))


def render_srt(transcript: Transcript) -> str:
    blocks = []
    for number, cue in enumerate(build_cues(transcript), 1):
        text = "\n".join(_label_lines(cue)).replace(
            "-->", "->"
        )  # what parsers take for a line of times
        blocks.append(
            f"{number}\n{_format_time(cue.start, ',')} --> {_format_time(cue.end, ',')}\n{text}\n"
        )
    return "\n".join(blocks)


def render_vtt(transcript: Transcript) -> str:
    blocks = ["WEBVTT\n"]
    for cue in build_cues(transcript):
        text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        voice = f"<v {cue.speaker}>" if cue.speaker else ""
        blocks.append(
            f"{_format_time(cue.start, '.')} --> {_format_time(cue.end, '.')}\n{voice}{text}\n"
        )
    return "\n".join(blocks)


def build_cues(transcript: Transcript) -> list[Cue]:
    """In order, never two at once; each channel's words in their order."""
    by_channel = sorted(transcript.segments, key=_channel_of)
    tracks = [list(_draft_cues(track)) for _, track in groupby(by_channel, key=_channel_of)]
    gaps = [
        Segment(start, min(end, start + LONGEST_S), format_gap(start, end), 0.0, 0.0, 0.0)
        for start, end in transcript.gaps
    ]
    return list(
        _extend_cues(
            list(merge(*tracks, _draft_cues(gaps), key=lambda cue: cue.start)),
            transcript.audio_seconds,
        )
    )


def _channel_of(segment: Segment) -> int:
    return -1 if segment.channel is None else segment.channel


def _label_lines(cue: Cue) -> Sequence[str]:
    return (f"{cue.speaker}: {cue.lines[0]}", *cue.lines[1:]) if cue.speaker else cue.lines


def _draft_cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    """Cues as the sound goes, whether or not there is time to read them."""
    for segment in segments:
        label = "" if segment.channel is None else format_speaker(segment.channel)
        indent = (
            measure_width(label) + 2 if label else 0
        )  # as it stands before the first line of an srt
        for stretch in _split_at_pauses(split_into_pieces(_words_of(segment))):
            for part in _split_to_fit(stretch, indent):
                yield Cue(
                    part[0].start, part[-1].end, tuple(break_lines(part, indent) or ()), label
                )


def _words_of(segment: Segment) -> Sequence[Word]:
    """Its words if they say what it says; else all of it as one long word, over which times are interpolated."""
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
    """Parts that fit two lines; halves of what is too long in time, unless it is short to read."""
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
    """The index before which to part: near the middle, better after a sentence, a clause or a pause."""
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
    """How much a reader minds a cut here, from 0 to 1."""
    if ends_with(before.text, STOPS):
        return 0.0
    if ends_with(before.text, _CLAUSES):
        return 0.15
    if after.start - before.end >= 0.4:
        return 0.2
    return 0.4 if after.spaced else 0.5


def _extend_cues(drafts: Sequence[Cue], audio_seconds: float) -> Iterator[Cue]:
    """Let each cue stay as long as it is read, into the silence after it, but not into the next one.

    In a crowd a cue is cut short, and the next may begin a little late.
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
