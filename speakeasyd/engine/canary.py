"""The canary: a clip with known words, which every loaded model has to recognise."""

import re

from speakeasyd.domain.options import Options
from speakeasyd.engine.bundled_audio import decode_bundled_audio
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.recognizer import AnyRecognizer

_TEXT = "the service listens to the folder and writes down every word"


class CanaryFailed(Exception):
    """The device computes wrong results: the same model passes the canary on the CPU."""


def transcribe_canary(recognizer: AnyRecognizer, *, words: bool = False) -> str:
    """Return the text of the canary. Raises EngineFault. `words`: compute their times, too."""
    clip = Clip(index=0, start=0.0, channel=None, samples=decode_bundled_audio("canary.flac"))
    request = recognizer.prepare(clip, Options(fallback=False, word_timestamps=words), "en")
    [hypothesis] = recognizer.recognize_batch([request])
    return hypothesis.settle_doubts().text


def measure_known_words(text: str) -> float:
    """Return the share of the canary's words that are in a text, 0 to 1."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    expected = _TEXT.split()
    return sum(word in words for word in expected) / len(expected)
