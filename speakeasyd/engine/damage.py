"""How to see that a file was cut: each container tells it in its own way, and several tell nothing."""

import os
from typing import BinaryIO

_UNKNOWN_RIFF_SIZE = 0x7FFF_FF00  # streaming writers leave this much or more, or 0
_OGG_PAGE_MAX = 65_307  # bytes
_OGG_END = 0x04  # header flag of a stream's last page
_HEADER_TELLS_LENGTH = frozenset({"aiff", "asf", "avi", "caf", "flac", "matroska", "mov", "tta", "w64", "wv"})
"""Formats whose header declares a length that survives cutting. Others guess it from the bit rate or the last page."""
_SLACK_S = 1.0  # seconds: encoders pad, and video may outlast its audio
_SLACK_SHARE = 0.02


def declared_seconds(container_format: str, duration: float | None, *, encoder_delay: bool) -> float | None:
    """The length that the header declares in seconds, None if what ffmpeg reports is only a guess.

    An MP3 knows its length when it begins with a Xing or LAME frame; ffmpeg then takes the encoder's delay from it.
    """
    names = set(container_format.split(","))
    trusted = bool(names & _HEADER_TELLS_LENGTH) or ("mp3" in names and encoder_delay)
    return duration if trusted else None


def cut_short(declared: float | None, decoded: float) -> bool:
    return declared is not None and decoded < declared - max(_SLACK_S, _SLACK_SHARE * declared)


def lacks_its_end(file: BinaryIO, size: int) -> bool:
    """Whether a RIFF file is smaller than it says, or an Ogg file has no last page. Moves the file's position."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF":
        declared = int.from_bytes(head[4:8], "little")
        return 0 < declared < _UNKNOWN_RIFF_SIZE and declared + 8 > size + 1  # some writers forget the pad byte
    if head[:4] == b"OggS":
        file.seek(max(0, size - _OGG_PAGE_MAX), os.SEEK_SET)
        tail = file.read(_OGG_PAGE_MAX)
        last = tail.rfind(b"OggS")
        return last < 0 or len(tail) < last + 6 or not tail[last + 5] & _OGG_END
    return False
