"""Splits Whisper's tokens into timed stretches of text, at pairs of timestamp tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TIMESTAMP_S = 0.02  # seconds between two consecutive timestamp tokens


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """A stretch of text tokens with its times."""

    start: float  # seconds in the window
    end: float  # seconds in the window
    tokens: tuple[int, ...]  # of text, without timestamps


def split_tokens(
    tokens: Sequence[int], *, timestamp_begin: int, seconds: float = math.inf
) -> tuple[list[TokenSegment], float | None]:
    """Return the stretches of a window, and the time in seconds at which to continue decoding.

    The time is None if the whole window was decoded; tokens that end with a pair of timestamps mean
    that more text begins there. Timestamps are limited to `seconds`, the audio in the window.
    """
    stretches: list[TokenSegment] = []
    text: list[int] = []
    start = 0.0
    last: float | None = None  # the timestamp that closed the latest stretch
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        at = min((token - timestamp_begin) * TIMESTAMP_S, seconds)
        if text:
            stretches.append(TokenSegment(start, max(start, at), tuple(text)))
            text = []
            last = at
        start = at
    if text:
        stretches.append(TokenSegment(start, seconds, tuple(text)))
        return stretches, None
    opened_again = (
        len(tokens) >= 2 and tokens[-1] >= timestamp_begin and tokens[-2] >= timestamp_begin
    )
    return stretches, last if opened_again else None
