"""Which language a file is in: several chunks heard, weighed by their length."""

from collections import Counter
from collections.abc import Sequence

from speakeasyd.engine.clips import Clip
from speakeasyd.engine.decoding import Decoder, Way

PROBE_CLIPS = 3
PROBE_SECONDS = 60.0  # of speech; enough even when it is fewer clips
_SURE = 0.9
_LONG_ENOUGH_S = 5.0  # a shorter clip alone convinces nobody


def detect_language(decoder: Decoder, clips: Sequence[Clip]) -> tuple[str, float]:
    """Language and probability, from the first clips of a file; the rest is not heard when one has settled it."""
    votes: Counter[str] = Counter()
    heard = 0.0
    for clip in clips:
        encoded = decoder.encode([clip.samples], decoder.window(clip.samples.size, Way()))
        for language, probability in decoder.languages(encoded).items():
            votes[language] += probability * clip.seconds  # type: ignore[assignment]  # Counter takes floats as well
        heard += clip.seconds
        language, votes_for = votes.most_common(1)[0]
        if heard >= _LONG_ENOUGH_S and votes_for / heard >= _SURE:
            break
    language, votes_for = votes.most_common(1)[0]
    return language, votes_for / heard
