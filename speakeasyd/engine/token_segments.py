"""Whisper's tokens to stretches of text: timestamp tokens come in pairs between stretches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TIMESTAMP_S = 0.02  # seconds a timestamp token


@dataclass(frozen=True, slots=True)
class TokenSegment:
    start: float  # seconds in the window
    end: float  # seconds in the window
    tokens: tuple[int, ...]  # of text, without timestamps


def split_tokens(
    tokens: Sequence[int], *, timestamp_begin: int, seconds: float = math.inf
) -> tuple[list[TokenSegment], float | None]:
    """The stretches of a window that holds `seconds` of audio, and where to go on, None if it was covered.

    A text that ends with a closed pair says that more begins there. Without `seconds`, timestamps
    are left as the decoder set them.
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
