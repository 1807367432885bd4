"""Loads the two libraries of the extra `record` when they are needed."""

from typing import Any

from speakeasyd.errors import SpeakeasyError

_INSTALL = "pip install 'speakeasyd[record]'"


class RecorderUnavailable(SpeakeasyError):
    """Recording is impossible: a library or the device is missing, or the device is in use."""


class RecorderBusy(SpeakeasyError):
    """A recording is already in progress."""


def load_sounddevice() -> Any:
    """Import sounddevice. Raises RecorderUnavailable if it or PortAudio is missing."""
    try:
        import sounddevice as library  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise RecorderUnavailable(
            "the library sounddevice is not installed", hint=_INSTALL
        ) from error
    except OSError as error:  # its wheels for Linux do not contain PortAudio
        raise RecorderUnavailable(
            f"the library PortAudio cannot be loaded: {error}",
            hint="On Debian and Ubuntu: apt install libportaudio2",
        ) from error
    return library


def load_soundfile() -> Any:
    """Import soundfile. Raises RecorderUnavailable if it is missing."""
    try:
        import soundfile as library  # noqa: PLC0415 - an extra
    except (ImportError, OSError) as error:
        raise RecorderUnavailable(
            f"the library soundfile cannot be loaded: {error}", hint=_INSTALL
        ) from error
    return library
