"""Measures the voice in a recording of one person, for known voices.

`python -m speakeasyd.engine.voice_sample FILE LEAST_S` prints JSON: `seconds` of speech and
`embedding` in base64; or `error`: why the recording is not a sample of one voice.
"""

import base64
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from speakeasyd.domain.diarization import SpeakerTurn
from speakeasyd.domain.file_speakers import number_speakers
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import MOST_SPEAKERS, Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.domain.speaker_clustering import encode_embedding, find_speakers
from speakeasyd.domain.speaker_recognition import average_speakers
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.clips import Clip, read_clips
from speakeasyd.engine.diarization import SpeakerDetector
from speakeasyd.engine.vad import VoiceDetector
from speakeasyd.errors import FileFault

MOST_S = 300.0  # seconds of the recording that are heard
LEAST_RANGE_DB = 13.0  # between loud and quiet moments; noise fills the quiet ones
MOST_CLIPPED = 0.001  # of the samples of speech that are as loud as the loudest
_PEAK = 0.98  # of the loudest sample: as loud as it
_FRAME = 400  # samples: 25 ms


class UnfitSample(Exception):
    """The recording is not a sample of one voice."""


@dataclass(frozen=True, slots=True)
class MeasuredVoice:
    """A voice."""

    seconds: float  # of speech
    embedding: bytes


def measure_voice(path: Path, least_s: float) -> MeasuredVoice:
    """Measure the voice in a recording with at least `least_s` seconds of speech.

    Raises UnfitSample, FileFault.
    """
    detector = SpeakerDetector()
    clips = list(_read_beginning(path))
    chunks = [(clip.index, detector.find_speakers(clip.samples, clip.start)) for clip in clips]
    seconds = sum(_measure_length(turn) for _, found in chunks for turn in found.turns)
    if seconds < least_s:
        raise UnfitSample(f"there are {seconds:.1f} s of speech, and {least_s:g} s are needed")
    speech = np.concatenate([clip.samples for clip in clips])
    if _measure_clipping(speech) > MOST_CLIPPED:
        raise UnfitSample("the recording is clipped: it is too loud for its format")
    if _measure_range(speech) < LEAST_RANGE_DB:
        raise UnfitSample("the recording is too noisy")
    numbers = number_speakers(chunks, find_speakers(chunks, low=1, high=MOST_SPEAKERS))
    embeddings = average_speakers(chunks, numbers)
    if len(embeddings) != 1:
        raise UnfitSample("there is more than one voice")
    [embedding] = embeddings.values()
    return MeasuredVoice(round(seconds, 1), encode_embedding(embedding))


def _read_beginning(path: Path) -> Iterator[Clip]:
    task = Task(
        JobId(0), Token(""), SourceRef("", os.fsencode(path.name)), Options(), language=None
    )
    read = read_clips(task, VoiceDetector(), folders={"": str(path.parent)})
    clips = (item for item in read if isinstance(item, Clip))
    return takewhile(lambda clip: clip.start < MOST_S, clips)


def _measure_length(turn: SpeakerTurn) -> float:
    return 0.0 if turn.overlap else turn.end - turn.start


def _measure_clipping(samples: Samples) -> float:
    """Return which share of the samples is as loud as the loudest."""
    loudness = np.abs(samples)
    return float(np.mean(loudness > _PEAK * loudness.max()))


def _measure_range(samples: Samples) -> float:
    """Return by how many dB loud moments are louder than quiet ones."""
    frames = samples[: samples.size // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.mean(frames**2, axis=1) + 1e-10
    quiet, loud = np.percentile(power, [10, 90])
    return float(10 * np.log10(loud / quiet))


def _describe_voice(path: Path, least_s: float) -> dict[str, object]:
    try:
        voice = measure_voice(path, least_s)
    except (UnfitSample, FileFault) as error:
        return {"error": str(error)}
    return {
        "seconds": voice.seconds,
        "embedding": base64.b64encode(voice.embedding).decode(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_describe_voice(Path(sys.argv[1]), float(sys.argv[2]))))
