"""When to say that audio is missing. A warning without a cause is a defect; so is a silent loss."""

_EXACT = frozenset({"aiff", "caf", "flac", "tta", "w64", "wav", "wv"})
_COUNTED = frozenset({"asf", "matroska", "mov"})
"""Formats whose header declares a length that survives cutting; that of the first is exact.

Others guess it from the bit rate or the last page."""
_SLACK_EXACT_S = 0.25  # seconds
_SLACK_S = 1.0  # seconds: encoders pad
_SLACK_SHARE = 0.001
_NOTICEABLE_S = 0.1  # seconds: less damage than this is a broken frame at the end


def declared_seconds(
    container_format: str, duration: float | None, *, counted: bool
) -> float | None:
    """The length that the header declares, None if what FFmpeg reports is only a guess.

    `counted`: an MP3 says how many frames it has, and is as long in bytes as it says.
    """
    names = set(container_format.split(","))
    return duration if names & (_EXACT | _COUNTED) or ("mp3" in names and counted) else None


def missing_seconds(container_format: str, declared: float | None, decoded: float) -> float:
    """How much less was decoded than the header declares, 0 if it is not worth a warning."""
    if declared is None:
        return 0.0
    exact = bool(set(container_format.split(",")) & _EXACT)
    slack = _SLACK_EXACT_S if exact else max(_SLACK_S, _SLACK_SHARE * declared)
    missing = declared - decoded
    return missing if missing > slack else 0.0


def seconds_of_bytes(missing: int, size: int, decoded: float) -> float:
    """How much audio so many bytes would be, 0 if it is not worth a warning."""
    seconds = missing * decoded / size
    return seconds if seconds > _SLACK_EXACT_S else 0.0


def is_noticeable(seconds: float) -> bool:
    return seconds > _NOTICEABLE_S
