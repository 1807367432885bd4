"""Input devices of PortAudio, and an audio stream from one of them."""

import atexit
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from speakeasyd.recorder.libraries import RecorderUnavailable, load_sounddevice

# Seconds for a device to close; the driver of an unplugged one may never return
LEAVE_S = 3.0

log = logging.getLogger(__name__)

OnBlock = Callable[[memoryview, bool], None]
"""Called in the audio thread with a block of interleaved 16-bit samples as bytes.

The second argument is whether samples were lost before the block.
"""


class AudioInput(Protocol):
    """A source of audio."""

    name: str
    rate: int  # frames a second
    channels: int

    def start(self, on_block: OnBlock) -> None:
        """Start calling `on_block`. Raises RecorderUnavailable."""
        ...

    @property
    def alive(self) -> bool:
        """Whether more blocks may come."""
        ...

    def stop(self) -> None:
        """Stop: no block comes afterwards. Never raises or hangs; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that can record."""

    index: int
    name: str
    system: str  # ALSA, Core Audio, Windows WASAPI, ...
    channels: int
    rate: int  # default frames a second
    is_default: bool


_streams: set[int] = set()
"""Ids of streams that are open or did not close; global, because PortAudio is, too."""


def _refresh_devices(library: Any) -> None:
    """Let PortAudio list the devices again, unless a stream is open.

    PortAudio lists devices only when it is initialised, and terminating it closes open streams.
    """
    if not _streams:
        library._terminate()
        library._initialize()


def list_devices() -> list[InputDevice]:
    """Return all input devices. Raises RecorderUnavailable."""
    library = load_sounddevice()
    try:
        _refresh_devices(library)
        default = library.default.device[0]
        systems = [system["name"] for system in library.query_hostapis()]
        return [
            InputDevice(
                index=found["index"],
                name=found["name"],
                system=systems[found["hostapi"]],
                channels=found["max_input_channels"],
                rate=int(found["default_samplerate"]),
                is_default=found["index"] == default,
            )
            for found in library.query_devices()
            if found["max_input_channels"] > 0
        ]
    except library.PortAudioError as error:
        raise RecorderUnavailable(f"the devices cannot be listed: {error}") from error


class Microphone:
    """One channel of an input device at its default rate."""

    channels = 1

    def __init__(self, device: str | int | None = None) -> None:
        """`device`: an index or a part of a name; None: the default. Raises RecorderUnavailable."""
        library = load_sounddevice()
        try:
            _refresh_devices(library)
            info = library.query_devices(device, "input")
        except (ValueError, library.PortAudioError) as error:
            what = (
                "there is no microphone"
                if device is None
                else f"there is no input device {device!r}: {error}"
            )
            raise RecorderUnavailable(what, hint="`speakeasyd devices` lists them.") from error
        self.name: str = info["name"]
        self.rate = int(info["default_samplerate"])
        self._index = info["index"]
        self._stream: Any = None

    def start(self, on_block: OnBlock) -> None:
        library = load_sounddevice()

        def callback(data: Any, _frames: int, _time: Any, status: Any) -> None:
            on_block(memoryview(data), status.input_overflow)

        try:
            self._stream = library.RawInputStream(
                device=self._index,
                channels=1,
                samplerate=self.rate,
                dtype="int16",
                latency="high",
                callback=callback,
            )
            _streams.add(id(self._stream))
            self._stream.start()
        except library.PortAudioError as error:
            self.stop()
            raise RecorderUnavailable(
                f"{self.name} cannot be recorded from: {error}",
                hint="Another program may use it exclusively, or the system may not allow "
                "this program to record.",
            ) from error

    @property
    def alive(self) -> bool:
        return self._stream is not None and bool(self._stream.active)

    def stop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        leaving = threading.Thread(
            target=_close_stream, args=[stream], name="close microphone", daemon=True
        )
        leaving.start()
        leaving.join(LEAVE_S)
        if leaving.is_alive():
            log.warning("%s cannot be closed; it stays open until the process ends", self.name)
            # sounddevice's exit handler would block the end of the process
            atexit.unregister(getattr(load_sounddevice(), "_exit_handler", _close_stream))


def _close_stream(stream: Any) -> None:
    with suppress(Exception):  # the device may be gone already
        stream.stop()
    with suppress(Exception):
        stream.close()
    _streams.discard(id(stream))
