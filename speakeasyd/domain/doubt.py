"""When to doubt a text, which of two to believe, and when to believe none: by statistics of the decoding alone."""

import zlib
from dataclasses import dataclass

_REPEATS = 2.4  # compression ratio above which a text goes round in circles
_UNSURE = -0.8  # mean log-probability below which another way is worth its time
_GUESS = -1.0  # and below which, where there may be no speech, it is an invention
_SILENCE = 0.6  # probability of no speech
_SPARSE = 2.5  # tokens a second of speech; people say about four
_ENOUGH_SPEECH_S = 5.0  # to judge by


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a decoded text."""

    text: str
    tokens: int  # of text
    speech_s: float  # seconds of speech that it is about
    avg_logprob: float
    no_speech_prob: float
    cut_off: bool = False  # the decoder ran into its limit of tokens

    @property
    def compression_ratio(self) -> float:
        return compression_ratio(self.text)


def compression_ratio(text: str) -> float:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def doubtful(evidence: Evidence) -> bool:
    """Whether another way of decoding should be tried."""
    return (
        evidence.cut_off
        or evidence.compression_ratio > _REPEATS
        or ((evidence.avg_logprob < _UNSURE or sparse(evidence)) and not silent(evidence))
    )


def sparse(evidence: Evidence) -> bool:
    """Whether much of what is said is left out: the decoder jumped over it, often at a pause, sure of the rest."""
    return evidence.speech_s >= _ENOUGH_SPEECH_S and evidence.tokens < _SPARSE * evidence.speech_s


def silent(evidence: Evidence) -> bool:
    """Whether the text is an invention over something that is not speech."""
    return evidence.no_speech_prob > _SILENCE and evidence.avg_logprob < _GUESS


def merit(evidence: Evidence) -> float:
    """To compare texts of the same audio: higher is more credible."""
    return evidence.avg_logprob - max(0.0, evidence.compression_ratio - _REPEATS) - evidence.cut_off - sparse(evidence)
