"""Language detection: one language for the start of a file, and the turns of each chunk."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ctranslate2 import StorageView

from speakeasyd.domain.languages import (
    LanguageEvidence,
    find_languages,
    needs_previous,
    restrict_languages,
)
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.decoding import Decoder, DecodingMethod, states_of

PROBE_CLIPS = 3
PROBE_SECONDS = 60.0  # seconds of speech that are enough, even in fewer clips
_SURE = 0.9  # share of the votes that ends the detection early
_LONG_ENOUGH_S = 5.0  # seconds of speech before the detection may end early
_STRETCH_S = 4.0  # seconds of speech after which any pause ends a stretch
_LONG_PAUSE_S = 0.5  # seconds: a pause at which the speaker may change
_ENOUGH_S = 0.8  # seconds of speech after which a long pause ends a stretch
_STATES_PER_S = 50  # encoder states a second of audio


@dataclass(frozen=True, slots=True)
class DetectedLanguage:
    """A language, and the encoder outputs of the clips used to detect it, by clip index.

    Decoding these clips needs the outputs again.
    """

    language: str
    probability: float
    encoded: dict[int, StorageView]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of speech in a clip, with the evidence for its language."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip
    evidence: LanguageEvidence


@dataclass(frozen=True, slots=True)
class LanguageTurn:
    """A part of a clip in one language."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip
    language: str


def detect_language(
    decoder: Decoder, clips: Sequence[Clip], way: DecodingMethod, allowed: Collection[str] = ()
) -> DetectedLanguage:
    """Return the language of the first clips of a file; stop at the first clear majority.

    Raises EngineFault.
    """
    encoded: dict[int, StorageView] = {}
    votes: Counter[str] = Counter()
    seconds = 0.0
    for clip in clips:
        encoded[clip.index] = decoder.encode_clips(
            [clip.samples], decoder.fit_window(clip.samples.size, way)
        )
        probabilities = decoder.languages(states_of(encoded[clip.index]))
        for language, probability in restrict_languages(probabilities, allowed).items():
            votes[language] += probability * clip.seconds  # type: ignore[assignment]  # Counter takes floats as well
        seconds += clip.seconds
        language, votes_for = votes.most_common(1)[0]
        if seconds >= _LONG_ENOUGH_S and votes_for / seconds >= _SURE:
            break
    language, votes_for = votes.most_common(1)[0]
    return DetectedLanguage(language, votes_for / seconds, encoded)


def hear_pieces(
    decoder: Decoder, clip: Clip, states: Samples, allowed: Collection[str]
) -> list[Piece]:
    """Return the languages along a clip, from its encoder states, shape (1, frames / 2, width)."""
    pieces: list[Piece] = []
    silence = states[:, int(clip.seconds * _STATES_PER_S) :]  # without it, detection is often wrong
    for start, end, speech_s in divide_clip(clip):
        part = states[:, int(start * _STATES_PER_S) : int(end * _STATES_PER_S) + 1]
        probabilities = restrict_languages(
            decoder.languages(np.concatenate([part, silence], axis=1)), allowed
        )
        pieces.append(Piece(start, end, LanguageEvidence(speech_s, probabilities)))
    return pieces


def is_independent(pieces: Sequence[Piece]) -> bool:
    """Return whether the turns do not depend on the language before the clip."""
    return not needs_previous([piece.evidence for piece in pieces])


def find_turns(
    decoder: Decoder,
    clip: Clip,
    pieces: Sequence[Piece],
    *,
    previous: str | None,
    way: DecodingMethod,
    allowed: Collection[str],
) -> list[LanguageTurn]:
    """Return the turns of a clip. If the language changes inside, each part is encoded again.

    `previous` is used only if the pieces depend on it: otherwise the result would depend on the
    order in which clips are processed. Raises EngineFault.
    """
    if is_independent(pieces):
        previous = None
    turns = join_turns(clip, pieces, previous)
    if len(turns) == 1:
        return turns
    parts: list[Piece] = []
    for turn in turns:
        part = clip.cut_part(turn.start, turn.end)
        encoded = decoder.encode_clips([part.samples], decoder.fit_window(part.samples.size, way))
        probabilities = restrict_languages(decoder.languages(states_of(encoded)), allowed)
        parts.append(Piece(turn.start, turn.end, LanguageEvidence(part.speech_s, probabilities)))
    return join_turns(clip, parts, previous)


def join_turns(clip: Clip, pieces: Sequence[Piece], previous: str | None) -> list[LanguageTurn]:
    """Return turns that cover the clip; the language changes in the middle of a pause."""
    languages = find_languages([piece.evidence for piece in pieces], previous)
    turns = [LanguageTurn(0.0, clip.seconds, languages[0])]
    for (before, after), language in zip(pairwise(pieces), languages[1:], strict=True):
        last = turns[-1]
        if language != last.language:
            at = (before.end + after.start) / 2
            turns[-1] = LanguageTurn(last.start, at, last.language)
            turns.append(LanguageTurn(at, clip.seconds, language))
    return turns


def divide_clip(clip: Clip) -> Iterator[tuple[float, float, float]]:
    """Yield start, end and seconds of speech of the stretches to classify."""
    runs = [part for run in clip.voiced or ((0.0, clip.seconds),) for part in _divide_run(*run)]
    nexts = [*(start for start, _ in runs[1:]), math.inf]
    begun: float | None = None
    speech_s = 0.0
    for (start, end), following in zip(runs, nexts, strict=True):
        begun = start if begun is None else begun
        speech_s += end - start
        enough = _ENOUGH_S if following - end >= _LONG_PAUSE_S else _STRETCH_S
        if speech_s >= enough or following == math.inf:
            yield begun, end, speech_s
            begun, speech_s = None, 0.0


def _divide_run(start: float, end: float) -> Iterator[tuple[float, float]]:
    """Split a run of speech without pauses into equal parts."""
    parts = max(1, int((end - start) / (2 * _STRETCH_S)))
    seconds = (end - start) / parts
    for number in range(parts):
        yield start + number * seconds, start + (number + 1) * seconds
