"""Splits timed words into sentences: the segments of a text without timestamps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from speakeasyd.domain.readable_text import STOPS, ends_with
from speakeasyd.domain.transcript import Word

_GAP_S = 0.3  # seconds without speech that lie between two words
_PAUSE_S = 0.8  # seconds of silence that end a segment
LONGEST_S = 8.0  # seconds after which a segment ends at the next word
# Initials and titles, before which a sentence seldom ends
_ABBREVIATION = re.compile(r"\W*([A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Hr|Fr|Sr|Sra|Mme)\.")


def trim_to_speech(words: Sequence[Word], voiced: Sequence[tuple[float, float]]) -> Iterator[Word]:
    """Yield the words without the pauses beside them: an aligned word lasts until the next one.

    `voiced`: the runs of speech, in seconds of the clip. A word outside of them stays as it is.
    """
    runs = list(_join_runs(voiced))
    for word in words:
        parts = [(max(word.start, start), min(word.end, end)) for start, end in runs]
        start, end = max(parts, key=lambda part: part[1] - part[0], default=(0.0, 0.0))
        yield replace(word, start=start, end=end) if start < end else word


def _join_runs(voiced: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the runs of speech, across gaps that may lie within a word."""
    begin = 0
    for index, (before, after) in enumerate(pairwise(voiced), 1):
        if after[0] - before[1] >= _GAP_S:
            yield voiced[begin][0], before[1]
            begin = index
    if voiced:
        yield voiced[begin][0], voiced[-1][1]


def split_sentences(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the words of each sentence, or of a part of it before a pause or after 8 s."""
    begin = 0
    for index, (word, following) in enumerate(pairwise(words), 1):
        if (
            _ends_sentence(word.text, following.text)
            or following.start - word.end >= _PAUSE_S
            or word.end - words[begin].start >= LONGEST_S
        ):
            yield words[begin:index]
            begin = index
    if words:
        yield words[begin:]


def _ends_sentence(word: str, following: str) -> bool:
    """Return whether a sentence ends between two words. A point is often not the end of one."""
    if not ends_with(word, STOPS):
        return False
    is_point = word.endswith(".")
    goes_on = following.lstrip()[:1].islower() or following[:1].isdigit()
    return not (is_point and (goes_on or _ABBREVIATION.fullmatch(word)))
