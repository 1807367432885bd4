"""Measures the voice in a recording, in a process of its own: the recording may be anything."""

import asyncio
import base64
import json
import sys
from pathlib import Path

from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.people import VoiceSample

SHORTEST_SAMPLE_S = 5.0  # seconds of speech
_DEADLINE_S = 300.0  # seconds


async def measure_sample(
    path: Path, *, source: str, least_s: float = SHORTEST_SAMPLE_S
) -> VoiceSample:
    """Return a sample of the one voice in a recording of at least `least_s` seconds of speech.

    Raises SpeakeasyError if the recording cannot be read, is too short, clipped or noisy, or has
    more than one voice.
    """
    program = [sys.executable, "-m", "speakeasyd.engine.voice_sample", str(path), str(least_s)]
    process = await asyncio.create_subprocess_exec(
        *program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_DEADLINE_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise _refuse(source, f"it was not measured within {_DEADLINE_S:.0f} s", least_s) from None
    finally:
        if process.returncode is None:
            process.kill()
    try:
        found = json.loads(output)
    except ValueError:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise _refuse(source, lines[-1] if lines else "its process died", least_s) from None
    if "error" in found:
        raise _refuse(source, found["error"], least_s)
    return VoiceSample(source, found["seconds"], base64.b64decode(found["embedding"]))


def _refuse(source: str, reason: str, least_s: float) -> SpeakeasyError:
    return SpeakeasyError(
        f"{source} is no sample of a voice: {reason}",
        hint=f"A sample is a clear recording of one person who speaks for {least_s:g} s or longer.",
    )
