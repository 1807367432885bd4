"""Measures the voice in a recording, in a process of its own: the recording may be anything."""

import base64
from pathlib import Path

from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.people import VoiceSample
from speakeasyd.probe import run_probe

SHORTEST_SAMPLE_S = 5.0  # seconds of speech
_DEADLINE_S = 300.0  # seconds


async def measure_sample(
    path: Path, *, source: str, least_s: float = SHORTEST_SAMPLE_S
) -> VoiceSample:
    """Return a sample of the one voice in a recording of at least `least_s` seconds of speech.

    Raises SpeakeasyError if the recording cannot be read, is too short, clipped or noisy, or has
    more than one voice.
    """
    program = ("-m", "speakeasyd.engine.voice_sample", str(path), str(least_s))
    found = await run_probe(*program, deadline_s=_DEADLINE_S)
    if "error" in found:
        raise _build_refusal(source, found["error"], least_s)
    return VoiceSample(source, found["seconds"], base64.b64decode(found["embedding"]))


def _build_refusal(source: str, reason: str, least_s: float) -> SpeakeasyError:
    return SpeakeasyError(
        f"{source} is no sample of a voice: {reason}",
        hint=f"A sample is a clear recording of one person who speaks for {least_s:g} s or longer.",
    )
