"""Which language a file is in: several chunks heard, weighed by their length."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ctranslate2 import StorageView

from speakeasyd.engine.clips import Clip
from speakeasyd.engine.decoding import Decoder, Way

PROBE_CLIPS = 3
PROBE_SECONDS = 60.0  # of speech; enough even when it is fewer clips
_SURE = 0.9
_LONG_ENOUGH_S = 5.0  # a shorter clip alone convinces nobody


@dataclass(frozen=True, slots=True)
class Heard:
    """The language, and the encoder's outputs of the clips that told it, by index: their text needs them too."""

    language: str
    probability: float
    encoded: dict[int, StorageView]


def detect_language(decoder: Decoder, clips: Sequence[Clip], way: Way) -> Heard:
    """The language of the first clips of a file; the rest is not heard when some have settled it."""
    encoded: dict[int, StorageView] = {}
    votes: Counter[str] = Counter()
    heard = 0.0
    for clip in clips:
        encoded[clip.index] = decoder.encode([clip.samples], decoder.window(clip.samples.size, way))
        for language, probability in decoder.languages(encoded[clip.index]).items():
            votes[language] += probability * clip.seconds  # type: ignore[assignment]  # Counter takes floats as well
        heard += clip.seconds
        language, votes_for = votes.most_common(1)[0]
        if heard >= _LONG_ENOUGH_S and votes_for / heard >= _SURE:
            break
    language, votes_for = votes.most_common(1)[0]
    return Heard(language, votes_for / heard, encoded)
