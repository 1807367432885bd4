"""Counts hallucinated repetitions in texts.

Usage: python -m benchmarks.repeats [--windows 2/10,0.5/3]

Recordings of single readers are cut at arbitrary places and decoded in windows (margin/floor, in
seconds) that are too small for the model, which provokes repetitions. The readers are split in two
halves: the thresholds were chosen on the first and are validated on the second. Wrong words are
counted against the best matching part of the reference, since the text of each piece is unknown.
"""

import argparse
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
from whisper_normalizer.english import EnglishTextNormalizer

from benchmarks.corpus import Recording, recordings
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.text_quality import find_repeated_phrase
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import load_model
from speakeasyd.engine.vad import WINDOW, VoiceActivity, VoiceDetector
from speakeasyd.engine.whisper import decoding
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer

PIECES = ((0.0, 1.0), (0.0, 0.45), (0.3, 0.8), (0.55, 1.0), (0.13, 0.97))
"""Start and end of the pieces, as fractions of a recording."""
SHORTEST_S, LONGEST_S = 1.5, 28.0
LONGEST_WINDOW_S = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", default="2/10,1/5,0.5/3", help="margin/floor in seconds")
    parser.add_argument("--limit", type=int, default=0, help="recordings, at most")
    asked = parser.parse_args()
    spec = WorkerSpec("cpu", "int8", 1, 1, str(Path.cwd()), offline=True)
    loaded = load_model("bundled", spec).recognizer
    assert isinstance(loaded, WhisperRecognizer)
    chosen = recordings("short", longest_s=LONGEST_S, limit=asked.limit)
    clips = [(one, clip) for one in chosen if one.reference for clip in cut(one)]
    print(
        "window half | pieces  decoded again  repetitions: first, kept  word errors: first, kept  s"
    )
    for window in asked.windows.split(","):
        margin, floor = map(float, window.split("/"))
        decoding._MARGIN = int(margin * decoding.FRAMES_PER_S)
        windows = range(int(floor), LONGEST_WINDOW_S)
        rules = replace(loaded.network.rules, windows_s=windows)
        recognizer = WhisperRecognizer(loaded.model, loaded.network, rules)
        for half, found in enumerate(measure(recognizer, clips)):
            names = ("pieces", "again", "repeated first", "repeated", "wrong first", "wrong", "cpu")
            print(window, half, "|", *(round(found[name]) for name in names), flush=True)


def measure(
    recognizer: WhisperRecognizer, clips: Sequence[tuple[Recording, Clip]]
) -> list[Counter[str]]:
    """Return the results of the pieces, for each half of the readers."""
    halves: list[Counter[str]] = [Counter(), Counter()]
    for recording, clip in clips:
        began = process_time()
        request = recognizer.prepare(clip, Options(), "en")
        [first] = recognizer.recognize_batch([request])
        final = first.settle_doubts()
        text = final.text
        found = halves[half_of(recording)]
        found["pieces"] += 1
        found["again"] += final.redone > 0
        found["repeated first"] += bool(find_repeated_phrase(first.decoded.evidence.text))
        found["repeated"] += bool(find_repeated_phrase(text))
        found["wrong first"] += wrong_within(recording.reference, first.decoded.evidence.text)
        found["wrong"] += wrong_within(recording.reference, text)
        found["cpu"] += process_time() - began  # type: ignore[assignment]  # Counter takes floats
    return halves


def half_of(recording: Recording) -> int:
    reader = re.sub(r"[-_]\d+\.\w+$", "", recording.path.name)
    return zlib.crc32(reader.encode()) % 2


def cut(recording: Recording) -> Iterator[Clip]:
    with MediaFile(str(recording.path)) as source:
        samples = np.concatenate([block[0] for block in Audio(source).blocks()])
    for start, end in PIECES:
        piece = samples[int(start * samples.size) : int(end * samples.size)]
        if piece.size >= SHORTEST_S * SAMPLE_RATE:
            voiced = find_speech(piece)
            yield replace(Clip(0, 0.0, None, piece), voiced=voiced)


def find_speech(samples: Samples) -> tuple[tuple[float, float], ...]:
    """Return the seconds from the first window with speech to the last."""
    probabilities = VoiceActivity(VoiceDetector()).process_block(samples)
    voiced = np.flatnonzero(probabilities > 0.5)
    if not voiced.size:
        return ()
    return ((voiced[0] * WINDOW / SAMPLE_RATE, (voiced[-1] + 1) * WINDOW / SAMPLE_RATE),)


def wrong_within(reference: str, hypothesis: str) -> int:
    """Return the word errors of `hypothesis` against the best matching part of `reference`."""
    normal = EnglishTextNormalizer()
    expected, words = normal(reference).split(), normal(hypothesis).split()
    above = [0] * (len(expected) + 1)
    for number, word in enumerate(words, 1):
        row = [number]
        for column, other in enumerate(expected, 1):
            row.append(min(above[column - 1] + (word != other), above[column] + 1, row[-1] + 1))
        above = row
    return min(above)


if __name__ == "__main__":
    main()
