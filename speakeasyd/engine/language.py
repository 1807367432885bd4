"""Language detection: one language for the start of a file, and the turns of each chunk."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from speakeasyd.domain.languages import (
    LanguageEvidence,
    find_languages,
    needs_previous,
    restrict_languages,
)
from speakeasyd.domain.options import Options
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.recognizer import AnyEncoding, AnyRecognizer

PROBE_CLIPS = 3
PROBE_SECONDS = 60.0  # seconds of speech that are enough, even in fewer clips
_SURE = 0.9  # share of the votes that ends the detection early
_LONG_ENOUGH_S = 5.0  # seconds of speech before the detection may end early
_STRETCH_S = 4.0  # seconds of speech after which any pause ends a stretch
_LONG_PAUSE_S = 0.5  # seconds: a pause at which the speaker may change
_ENOUGH_S = 0.8  # seconds of speech after which a long pause ends a stretch


@dataclass(frozen=True, slots=True)
class DetectedLanguage:
    """A language, and the encoded clips used to detect it, by index: their text needs them again."""

    language: str
    probability: float
    encoded: dict[int, AnyEncoding]


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
    recognizer: AnyRecognizer, clips: Sequence[Clip], options: Options
) -> DetectedLanguage:
    """Return the language of the first clips of a file; stop at the first clear majority.

    Raises EngineFault.
    """
    encoded: dict[int, AnyEncoding] = {}
    votes: Counter[str] = Counter()
    seconds = 0.0
    for clip in clips:
        encoded[clip.index], probabilities = _rate_clip(recognizer, clip, options)
        for language, probability in probabilities.items():
            votes[language] += probability * clip.seconds  # type: ignore[assignment]  # Counter takes floats as well
        seconds += clip.seconds
        language, votes_for = votes.most_common(1)[0]
        if seconds >= _LONG_ENOUGH_S and votes_for / seconds >= _SURE:
            break
    language, votes_for = votes.most_common(1)[0]
    return DetectedLanguage(language, votes_for / seconds, encoded)


def _rate_clip(
    recognizer: AnyRecognizer, clip: Clip, options: Options
) -> tuple[AnyEncoding, dict[str, float]]:
    [encoded] = recognizer.encode([recognizer.prepare(clip, options, None)])
    [probabilities] = recognizer.rate_languages(encoded)
    return encoded, restrict_languages(probabilities, options.languages)


def rate_pieces(
    recognizer: AnyRecognizer, encoded: AnyEncoding, clip: Clip, allowed: Collection[str]
) -> list[Piece]:
    """Return the languages along a clip. `allowed`: codes; empty: all. Raises EngineFault."""
    stretches = list(divide_clip(clip))
    rated = recognizer.rate_languages(encoded, [(start, end) for start, end, _ in stretches])
    return [
        Piece(start, end, LanguageEvidence(speech_s, restrict_languages(found, allowed)))
        for (start, end, speech_s), found in zip(stretches, rated, strict=True)
    ]


def is_independent(pieces: Sequence[Piece]) -> bool:
    """Return whether the turns do not depend on the language before the clip."""
    return not needs_previous([piece.evidence for piece in pieces])


def find_turns(
    recognizer: AnyRecognizer,
    clip: Clip,
    pieces: Sequence[Piece],
    *,
    previous: str | None,
    options: Options,
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
        _, probabilities = _rate_clip(recognizer, part, options)
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
