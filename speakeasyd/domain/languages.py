"""Language of each stretch of speech: a Viterbi search over evidence, with hysteresis.

Every change of language has a cost, equal to a few seconds of clear evidence. Short or unclear
stretches therefore keep the language before them.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_SWITCH_COST = 1.5  # nats of evidence that a change of language needs
_FULL_WEIGHT_S = 5.0  # seconds of speech from which a stretch has its full weight
_LEAST_PROBABILITY = 1e-3  # lower limit, so that one stretch alone never excludes a language


@dataclass(frozen=True, slots=True)
class LanguageEvidence:
    """A stretch of speech with the probability of each language, code to 0..1."""

    speech_s: float  # seconds of speech
    probabilities: Mapping[str, float]


def restrict_languages(
    probabilities: Mapping[str, float], allowed: Collection[str]
) -> dict[str, float]:
    """Return the probabilities of the allowed languages, scaled to a sum of 1.

    All languages are allowed if `allowed` is empty.
    """
    kept = {code: p for code, p in probabilities.items() if not allowed or code in allowed}
    total = sum(kept.values())
    return {code: p / total if total else 1 / len(kept) for code, p in kept.items()}


def needs_previous(stretches: Sequence[LanguageEvidence]) -> bool:
    """Return whether the languages of these stretches depend on the language before them."""
    scores = _score_sequence(stretches)[0]
    first = _find_best(scores)
    others = (score for code, score in scores.items() if code != first)
    return max(others, default=-math.inf) >= scores[first] - _SWITCH_COST


def find_languages(stretches: Sequence[LanguageEvidence], previous: str | None) -> list[str]:
    """Return the language of each stretch: the sequence with the best score."""
    found: list[str] = []
    for scores in _score_sequence(stretches):
        best = _find_best(scores)
        stays = previous in scores and scores[previous] >= scores[best] - _SWITCH_COST
        previous = previous if previous is not None and stays else best
        found.append(previous)
    return found


def _score_sequence(stretches: Sequence[LanguageEvidence]) -> list[dict[str, float]]:
    """Return, for each stretch, the best score of a sequence to the end by its first language."""
    scores: list[dict[str, float]] = []
    following: dict[str, float] = {}
    for stretch in reversed(stretches):
        weight = _weigh_evidence(stretch)
        after_switch = max(following.values(), default=0.0) - _SWITCH_COST
        following = {
            code: weight * math.log(max(probability, _LEAST_PROBABILITY))
            + max(following.get(code, 0.0), after_switch)
            for code, probability in stretch.probabilities.items()
        }
        scores.append(following)
    return scores[::-1]


def _weigh_evidence(stretch: LanguageEvidence) -> float:
    """Return the weight, 0 to 1: low for short stretches and for those without a clear language."""
    clearness = max(stretch.probabilities.values(), default=0.0)
    return clearness * min(1.0, stretch.speech_s / _FULL_WEIGHT_S)


def _find_best(scores: Mapping[str, float]) -> str:
    """Return the language with the highest score; among equals the first in the alphabet."""
    return min(scores, key=lambda code: (-scores[code], code))


def choose_main_language(
    spoken: Iterable[tuple[str | None, float]], detected: str | None
) -> str | None:
    """Return the language with most speech; `detected` if there is no speech.

    `spoken`: language and seconds of each segment; without a language it is the detected one.
    """
    seconds: defaultdict[str | None, float] = defaultdict(float)
    for language, duration in spoken:
        seconds[language or detected] += duration
    return max(seconds, key=lambda code: (seconds[code], code or ""), default=detected)
