"""What a speech model can do, and what it gives for a clip. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from speakeasyd.domain.language_codes import NAMES
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Segment
from speakeasyd.errors import ErrorCode, FileFault

LanguageProbabilities = Mapping[str, float]
"""Probability of each language that a model knows, by code."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a speech model can do. What it cannot do is refused, or left out if it is an extra."""

    languages: frozenset[str]  # codes of those it can transcribe
    tasks: frozenset[str] = frozenset({"transcribe"})  # values of `Options.task`
    detects_languages: bool = False  # else it knows one language
    word_times: bool = False  # else words are left out
    prompts: bool = False  # whether hints and the text before a clip change the text


@dataclass(frozen=True, slots=True)
class RecognizedText:
    """The text of a clip, or of a part of it."""

    segments: tuple[Segment, ...] = ()  # their times are seconds in the file
    redone: int = 0  # how often it was decoded again because of doubts

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    def followed_by(self, more: "RecognizedText") -> "RecognizedText":
        return RecognizedText(self.segments + more.segments, self.redone + more.redone)


def compute_confidence(avg_logprob: float) -> float:
    """Return the confidence, 0 to 1, of a text whose tokens have this mean log-probability."""
    return math.exp(min(0.0, avg_logprob)) if math.isfinite(avg_logprob) else 0.0


def choose_language(
    options: Options, capabilities: Capabilities, *, found: str | None
) -> str | None:
    """Return the language of a file; None if it has to be detected.

    `found`: what an earlier attempt has detected. Raises FileFault (`model_unavailable`) if the
    model cannot do what the options ask for.
    """
    if not capabilities.detects_languages:
        return _choose_only_language(options, capabilities)
    if options.task not in capabilities.tasks:
        raise FileFault(ErrorCode.MODEL_UNAVAILABLE, "the model does not translate")
    wanted = options.fixed_language or found
    named = (*options.possible_languages, *([wanted] if wanted else []))
    unknown = next((code for code in named if code not in capabilities.languages), None)
    if unknown:
        raise FileFault(
            ErrorCode.MODEL_UNAVAILABLE, f"the model does not know the language {unknown!r}"
        )
    return wanted


def _choose_only_language(options: Options, capabilities: Capabilities) -> str:
    [only] = capabilities.languages
    choices = options.possible_languages
    if options.task in capabilities.tasks and (not choices or only in choices):
        return only
    limits = "" if "translate" in capabilities.tasks else " and does not translate"
    raise FileFault(
        ErrorCode.MODEL_UNAVAILABLE,
        f"the model knows {NAMES.get(only, only).title()} only{limits}",
        hint="choose a multilingual model, such as small or large-v3-turbo",
    )
