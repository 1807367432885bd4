"""Input devices, and a stream from one of them, as PortAudio has them."""

import atexit
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from speakeasyd.recorder.libraries import RecorderUnavailable, load_sounddevice

# Seconds for a device to let go; the driver of one that was pulled out may never answer
LEAVE_S = 3.0

log = logging.getLogger(__name__)

OnBlock = Callable[[memoryview, bool], None]
"""Gets a block of interleaved 16-bit samples as bytes, and whether some were lost before; in the audio thread."""


class AudioInput(Protocol):
    """Where audio comes from."""

    name: str
    rate: int  # frames in a second
    channels: int

    def start(self, on_block: OnBlock) -> None:
        """Raises RecorderUnavailable."""
        ...

    @property
    def alive(self) -> bool:
        """False: no more blocks will come."""
        ...

    def stop(self) -> None:
        """No block comes after it. Never raises, never hangs; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class InputDevice:
    index: int
    name: str
    system: str  # ALSA, Core Audio, Windows WASAPI, ...
    channels: int
    rate: int  # frames in a second, by default
    is_default: bool


_streams: set[int] = set()
"""Those that are open, or did not let go. PortAudio is one for the whole process, and so is this."""


def _refresh_devices(library: Any) -> None:
    """Have PortAudio list the devices anew, which it does once, when it begins; and ends what is open when it ends."""
    if not _streams:
        library._terminate()
        library._initialize()


def list_devices() -> list[InputDevice]:
    """All that can be recorded from. Raises RecorderUnavailable."""
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
    """One channel at the rate that the device likes best."""

    channels = 1

    def __init__(self, device: str | int | None = None) -> None:
        """`device`: an index, or a part of a name; None: the default. Raises RecorderUnavailable."""
        library = load_sounddevice()
        try:
            _refresh_devices(library)
            about = library.query_devices(device, "input")
        except (ValueError, library.PortAudioError) as error:
            what = (
                "there is no microphone"
                if device is None
                else f"there is no input device {device!r}: {error}"
            )
            raise RecorderUnavailable(what, hint="`speakeasyd devices` lists them.") from error
        self.name: str = about["name"]
        self.rate = int(about["default_samplerate"])
        self._index = about["index"]
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
                hint="Another program may keep it to itself, or the system may not let this one listen.",
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
            log.warning("%s does not let go; left alone", self.name)
            atexit.unregister(
                getattr(load_sounddevice(), "_exit_handler", _close_stream)
            )  # else this process could not end


def _close_stream(stream: Any) -> None:
    with suppress(Exception):  # it may be gone already: nothing to be done about it
        stream.stop()
    with suppress(Exception):
        stream.close()
    _streams.discard(id(stream))
