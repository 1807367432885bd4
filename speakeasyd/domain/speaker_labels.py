"""Gives each word the speaker who said it, and splits segments where the speaker changes. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from speakeasyd.domain.diarization import SpeakerTurn
from speakeasyd.domain.transcript import Segment, Word

REACH_S = 1.0  # seconds; a word outside all turns belongs to a turn at most this far away
OVERLAP_WEIGHT = 0.5  # of a speaker who talks while another one has the floor


def find_speaker(start: float, end: float, turns: Sequence[SpeakerTurn]) -> int | None:
    """Return who speaks longest between two times in seconds, else who speaks nearest to them.

    None if nobody speaks within `REACH_S`.
    """
    shares: dict[int, float] = {}
    for turn in turns:
        shared = min(end, turn.end) - max(start, turn.start)
        if shared > 0:
            weight = OVERLAP_WEIGHT if turn.overlap else 1.0
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared * weight
    if shares:
        return max(sorted(shares), key=shares.__getitem__)
    nearest = min(turns, key=lambda turn: _measure_distance(start, end, turn), default=None)
    if nearest is None or _measure_distance(start, end, nearest) > REACH_S:
        return None
    return nearest.speaker


def _measure_distance(start: float, end: float, turn: SpeakerTurn) -> float:
    return max(turn.start - end, start - turn.end, 0.0)


def label_segments(
    segments: Sequence[Segment], turns: Sequence[SpeakerTurn], *, keep_words: bool
) -> tuple[Segment, ...]:
    """Return the segments with their local speakers, split between words where the speaker changes.

    `keep_words`: else the words served to split the segments only, and are removed. The texts,
    joined, stay the same.
    """
    labelled = [part for segment in segments for part in _label_segment(segment, turns)]
    return tuple(labelled if keep_words else (replace(part, words=()) for part in labelled))


def _label_segment(segment: Segment, turns: Sequence[SpeakerTurn]) -> list[Segment]:
    whole = find_speaker(segment.start, segment.end, turns)
    if "".join(word.text for word in segment.words) != segment.text:
        return [replace(segment, local_speaker=whole)]
    speakers = _fill_unknown(
        [find_speaker(word.start, word.end, turns) for word in segment.words], whole
    )
    runs = [
        (speaker, [word for _, word in run])
        for speaker, run in groupby(
            zip(speakers, segment.words, strict=True), key=lambda pair: pair[0]
        )
    ]
    parts = [_cut_part(segment, words, speaker) for speaker, words in runs]
    if not parts:
        return [replace(segment, local_speaker=whole)]
    parts[0] = replace(parts[0], start=min(segment.start, parts[0].end))
    parts[-1] = replace(parts[-1], end=max(segment.end, parts[-1].start))
    return parts


def _cut_part(segment: Segment, words: Sequence[Word], speaker: int | None) -> Segment:
    return replace(
        segment,
        start=words[0].start,
        end=words[-1].end,
        text="".join(word.text for word in words),
        words=tuple(words),
        local_speaker=speaker,
    )


def _fill_unknown(speakers: Sequence[int | None], whole: int | None) -> list[int | None]:
    """A word without a speaker belongs to the speaker before; the first ones to that of the segment."""
    filled: list[int | None] = []
    for speaker in speakers:
        last = filled[-1] if filled else whole
        filled.append(last if speaker is None else speaker)
    return filled
