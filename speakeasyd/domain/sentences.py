"""Splits timed words into sentences: the segments of a text without timestamps."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from speakeasyd.domain.readable_text import STOPS, ends_with
from speakeasyd.domain.transcript import Word

_PAUSE_S = 0.8  # seconds of silence that end a segment
_LONGEST_S = 8.0  # seconds after which a segment ends at the next word


def split_sentences(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the words of each sentence, or of a part of it before a pause or after 8 s."""
    begin = 0
    for index, (word, following) in enumerate(pairwise(words), 1):
        if (
            ends_with(word.text, STOPS)
            or following.start - word.end >= _PAUSE_S
            or word.end - words[begin].start >= _LONGEST_S
        ):
            yield words[begin:index]
            begin = index
    if words:
        yield words[begin:]
