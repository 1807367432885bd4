"""Recordings: when they end, how they are named, and the recorder's state. Pure."""

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

SAMPLE_BYTES = 2  # samples are signed 16-bit integers
FULL_SCALE = 32768  # magnitude of the largest such sample
FLOOR_DB = -96.0  # dB that a 16-bit sample of zero is shown as
SOUND_DB = -45.0  # dB; peaks below are silence: a quiet room on an ordinary microphone


class RecordingPhase(StrEnum):
    """What a recorder is doing."""

    IDLE = "idle"
    """Nothing has been recorded yet, or the last recording succeeded."""
    RECORDING = "recording"
    STOPPING = "stopping"
    """A stop was requested; the rest of the buffer is being written."""
    FAILED = "failed"
    """The last recording ended by an error; the audio recorded until then is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingLimits:
    """When a recording ends by itself, in seconds; None: never."""

    max_s: float | None = None
    # Silence after a sound; the silence before the first sound does not count
    until_silence_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecordingProgress:
    """Length of a recording so far, and its last sound."""

    seconds: float = 0.0
    last_sound: float | None = None  # seconds from the beginning; None: silence so far

    def add_block(self, seconds: float, peak_db: float) -> "RecordingProgress":
        """Return the progress after one more block of this length and peak level."""
        total = self.seconds + seconds
        return RecordingProgress(total, total if peak_db >= SOUND_DB else self.last_sound)


def find_stop_reason(limits: RecordingLimits, heard: RecordingProgress) -> str | None:
    """Return why the recording ends now, as a message for users; None: it continues."""
    if limits.max_s is not None and heard.seconds >= limits.max_s:
        return f"it is {limits.max_s:g} s long"
    silent = heard.seconds - heard.last_sound if heard.last_sound is not None else 0.0
    if limits.until_silence_s is not None and silent >= limits.until_silence_s > 0:
        return f"{limits.until_silence_s:g} s of silence"
    return None


def to_decibels(peak: int) -> float:
    """Convert the peak of 16-bit samples, 0 to 32768, to dB relative to full scale."""
    return max(FLOOR_DB, 20 * math.log10(peak / FULL_SCALE)) if peak else FLOOR_DB


def build_stem(began: datetime) -> str:
    """Return a recording's name without extension, from its local start time.

    Every filesystem allows its characters.
    """
    return f"recording {began.astimezone():%Y-%m-%d %H.%M.%S}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderState:
    """The state of a recorder at one moment; also the content of its events."""

    phase: RecordingPhase = RecordingPhase.IDLE
    device: str = ""
    rate: int = 0  # frames in a second
    began_at: str | None = None  # UTC, ISO 8601
    seconds: float = 0.0  # recorded so far
    peak_db: float = FLOOR_DB  # of the latest block, relative to full scale
    overflows: int = 0  # how often audio was lost because the machine was too slow
    file: str | None = None  # the last recording, once it is in the inbox
    reason: str = ""  # why it ended, if no person stopped it
