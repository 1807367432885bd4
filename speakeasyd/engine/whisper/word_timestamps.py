"""Word timestamps from the cross-attention over an existing encoder output."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ctranslate2 import StorageView
from faster_whisper.tokenizer import Tokenizer

from speakeasyd.domain.transcript import Word
from speakeasyd.engine.whisper.token_segments import TIMESTAMP_S, TokenSegment

_LEADING = "\"'“¿([{-"
_TRAILING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - full-width punctuation is meant


def align_words(
    model: Any,
    tokenizer: Tokenizer,
    encoded: StorageView,
    stretches: Sequence[Sequence[TokenSegment]],
    *,
    start: Sequence[int],
    frames: Sequence[int],
) -> list[list[tuple[Word, ...]]]:
    """Return the words of each stretch of each clip, with times in seconds of the window.

    Raises RuntimeError, as CTranslate2 does.

    `encoded`: the encoder's output, shape (clips, frames / 2, width). `start`: tokens of the start
    of transcript, language and task. `frames`: frames of each window that hold audio, at least 4.
    """
    tokens = [[token for stretch in clip for token in stretch.tokens] for clip in stretches]
    aligned = model.align(encoded, list(start), tokens, list(frames))
    return [
        _assign_to_segments(_build_timed_words(of_clip, tokenizer, text), clip)
        for of_clip, text, clip in zip(aligned, tokens, stretches, strict=True)
    ]


def _build_timed_words(
    aligned: Any, tokenizer: Tokenizer, tokens: list[int]
) -> list[tuple[Word, int]]:
    """Return words, each with its number of tokens."""
    texts, groups = _split_words(tokenizer, tokens)
    bounds = np.cumsum([0, *map(len, groups)])
    text_at = np.array([pair[0] for pair in aligned.alignments])
    time_at = np.array([pair[1] for pair in aligned.alignments])
    begins = np.concatenate([[True], np.diff(text_at) > 0])
    times = time_at[begins] * TIMESTAMP_S
    words: list[tuple[Word, int]] = []
    for text, low, high in zip(texts, bounds[:-1], bounds[1:], strict=True):
        probability = float(np.mean(aligned.text_token_probs[low:high]))
        word = Word(float(times[low]), float(times[min(high, len(times) - 1)]), text, probability)
        words.append((word, int(high - low)))
    return words


def _split_words(
    tokenizer: Tokenizer, tokens: list[int]
) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Return the text and the tokens of each word; no token is left out."""
    texts, groups = tokenizer.split_to_word_tokens(tokens)
    # It leaves out what follows an incomplete character
    rest = tokens[sum(map(len, groups)) :]
    return ([*texts, tokenizer.decode(rest)], [*groups, rest]) if rest else (texts, groups)


def _assign_to_segments(
    words: Sequence[tuple[Word, int]], stretches: Sequence[TokenSegment]
) -> list[tuple[Word, ...]]:
    """Return the words of each stretch, assigned by first token, with punctuation joined."""
    by_stretch: list[list[Word]] = [[] for _ in stretches]
    ends = np.cumsum([len(stretch.tokens) for stretch in stretches])
    position = 0
    for word, count in words:
        by_stretch[int(np.searchsorted(ends, position, side="right"))].append(word)
        position += count
    return [_join_punctuation(group) for group in by_stretch]


def _join_punctuation(words: Sequence[Word]) -> tuple[Word, ...]:
    joined: list[Word] = []
    for word in words:
        before = joined[-1] if joined else None
        if before and (word.text in _TRAILING or before.text.strip() in _LEADING):
            joined[-1] = Word(
                before.start,
                word.end,
                before.text + word.text,
                min(before.probability, word.probability),
            )
        else:
            joined.append(word)
    return tuple(joined)
