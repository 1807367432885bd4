"""The order of the queue within a priority: shortest remaining work first, with aging.

The key of a job is the time when it was added plus the length of its audio. So short files go
first, and a file waits only for files that were added within its own length after it: none waits
forever. The key does not change, so a restart keeps the order.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

_COMPRESSED, _LOSSLESS, _PCM, _VIDEO = 16_000, 60_000, 100_000, 250_000  # bytes per second
_BYTES_PER_SECOND = {
    **dict.fromkeys(("amr", "awb", "dss", "ds2", "gsm", "spx"), 2_000),
    **dict.fromkeys(("opus", "oga", "ogg"), 8_000),
    **dict.fromkeys(("ape", "flac", "tta", "wv"), _LOSSLESS),
    **dict.fromkeys(("aif", "aifc", "aiff", "au", "caf", "snd", "w64", "wav", "wave"), _PCM),
    **dict.fromkeys(
        ("avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ts", "wmv"),
        _VIDEO,
    ),
}


def estimate_seconds(path: str, size: int) -> float:
    """Return the probable length of the audio in a file of `size` bytes, by its extension.

    The estimate serves to order files before any of them is opened.
    """
    extension = PurePosixPath(path).suffix.lower().removeprefix(".")
    return size / _BYTES_PER_SECOND.get(extension, _COMPRESSED)


class QueueTurn(NamedTuple):
    """The place of a job in the queue; lower ones go first."""

    negative_priority: int
    queue_key: float
    job_id: int


class NextJob(NamedTuple):
    """The first job of the queue that may be claimed."""

    model: str  # `options.model`
    turn: QueueTurn


def compute_queue_key(added_at: float, seconds: float) -> float:
    """Return the key of a job added at `added_at` (seconds since the epoch); lower keys go first."""
    return added_at + seconds
