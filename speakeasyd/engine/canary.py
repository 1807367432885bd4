"""The canary: a clip with known words, which every loaded model has to recognise."""

import re
from importlib.resources import as_file, files

import numpy as np

from speakeasyd.domain.options import Options
from speakeasyd.engine.audio import Audio, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.recognizer import AnyRecognizer

_TEXT = "the service listens to the folder and writes down every word"


class CanaryFailed(Exception):
    """The device computes wrong results: the same model passes the canary on the CPU."""


def transcribe_canary(recognizer: AnyRecognizer) -> str:
    """Return the text of the canary. Raises EngineFault."""
    clip = Clip(index=0, start=0.0, channel=None, samples=_load_canary())
    request = recognizer.prepare(clip, Options(fallback=False), "en")
    [hypothesis] = recognizer.recognize_batch([request])
    return hypothesis.settle_doubts().text


def measure_known_words(text: str) -> float:
    """Return the share of the canary's words that are in a text, 0 to 1."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    expected = _TEXT.split()
    return sum(word in words for word in expected) / len(expected)


def _load_canary() -> Samples:
    """Return the samples of the canary, mono, shape (n,)."""
    with (
        as_file(files("speakeasyd") / "data" / "canary.flac") as path,
        MediaFile(str(path)) as source,
    ):
        return np.concatenate([block[0] for block in Audio(source).blocks()])
