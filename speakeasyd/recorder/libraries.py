"""The two libraries of the extra `record`, loaded when they are needed; or why they cannot be."""

from typing import Any

from speakeasyd.errors import SpeakeasyError

_INSTALL = "pip install 'speakeasyd[record]'"


class RecorderUnavailable(SpeakeasyError):
    """Nothing can be recorded: a library or the device is missing, or the device is in use."""


class RecorderBusy(SpeakeasyError):
    """A recording is under way already."""


def load_sounddevice() -> Any:
    """Raises RecorderUnavailable."""
    try:
        import sounddevice as library  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise RecorderUnavailable(
            "the library sounddevice is not installed", hint=_INSTALL
        ) from error
    except OSError as error:  # on Linux its wheels do not bring PortAudio
        raise RecorderUnavailable(
            f"the library PortAudio cannot be loaded: {error}",
            hint="On Debian and Ubuntu: apt install libportaudio2",
        ) from error
    return library


def load_soundfile() -> Any:
    """Raises RecorderUnavailable."""
    try:
        import soundfile as library  # noqa: PLC0415 - an extra
    except (ImportError, OSError) as error:
        raise RecorderUnavailable(
            f"the library soundfile cannot be loaded: {error}", hint=_INSTALL
        ) from error
    return library
