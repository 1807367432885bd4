"""One track of a container: packets to samples at 16 kHz, each where the file's clock has it."""

from typing import Any

import numpy as np
from av.audio.resampler import AudioResampler

from speakeasyd.engine.assembly import SAMPLE_RATE, Silence
from speakeasyd.engine.samples import Samples
from speakeasyd.engine.timeline import Stamp, Timeline
from speakeasyd.errors import ErrorCode, FileFault

_RATES = range(2_000, 768_001)  # Hz: outside lie forged headers
_MAX_CHANNELS = 64
_FULL_SCALE = {"s16": 32_768.0, "s32": 2_147_483_648.0, "flt": 1.0, "dbl": 1.0}
_PLANES_THAT_CAN_BE_READ = 8  # PyAV reads beyond its array of pointers for more


class Track:
    """Frames to samples of shape (channels, any length), and silence where the file has a hole."""

    def __init__(self, timeline: Timeline, written: int) -> None:
        self.timeline = timeline
        self.written = written  # samples on the timeline so far
        self._converter = FrameConverter()
        self._held: tuple[Any, Stamp] | None = None  # a frame is placed when the next is known
        self._to_trim = 0  # samples of what comes next that the clock has no room for

    def add(self, frame: Any) -> list[Samples | Silence]:
        """What has become certain by this frame."""
        require_plausible(frame)
        stamp = Stamp(frame.time, frame.samples / frame.sample_rate)
        held, self._held = self._held, (frame, stamp)
        return self._place_frame(*held, stamp) if held else []

    def finish(self) -> list[Samples | Silence]:
        pieces = self._place_frame(*self._held, None) if self._held else []
        self._held = None
        return [*pieces, *self._count_samples(self._converter.flush())]

    def _place_frame(
        self, frame: Any, stamp: Stamp, following: Stamp | None
    ) -> list[Samples | Silence]:
        gap = self.timeline.place(stamp, following)
        if gap == 0.0:
            return self._count_samples(self._converter.convert(frame))
        if gap < 0.0:
            self._to_trim += round(-gap * SAMPLE_RATE)
            return self._count_samples(self._converter.convert(frame))
        pieces = self._count_samples(self._converter.flush())
        begin = self.timeline.end - stamp.seconds
        silence = max(0, round(begin * SAMPLE_RATE) - self.written)
        self.written += silence
        return [*pieces, Silence(silence), *self._count_samples(self._converter.convert(frame))]

    def _count_samples(self, pieces: list[Samples]) -> list[Samples | Silence]:
        if self._to_trim:
            pieces = [self._trim_overlap(piece) for piece in pieces]
        self.written += sum(piece.shape[1] for piece in pieces)
        return list(pieces)

    def _trim_overlap(self, piece: Samples) -> Samples:
        trimmed = min(self._to_trim, piece.shape[1])
        self._to_trim -= trimmed
        return piece[:, trimmed:]


def require_plausible(frame: Any) -> None:
    """A forged header could make one frame fill the memory."""
    if frame.sample_rate not in _RATES or frame.layout.nb_channels > _MAX_CHANNELS:
        raise FileFault(
            ErrorCode.DECODE_FAILED,
            f"{frame.sample_rate} Hz with {frame.layout.nb_channels} channels is no recording",
        )


class FrameConverter:
    """Frames to float32 at 16 kHz; without a resampler where only the sample format differs."""

    def __init__(self) -> None:
        self._setup: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def convert(self, frame: Any) -> list[Samples]:
        if frame.sample_rate == SAMPLE_RATE:
            scale = _FULL_SCALE.get(frame.format.packed.name)
            if scale and _can_be_read(frame):
                return [_to_samples(frame, scale)]
        before: list[Samples] = []
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup != self._setup:  # a stream may change in the middle
            before = self.flush()
            self._setup = setup
        if self._resampler is None:
            many = frame.layout.nb_channels > _PLANES_THAT_CAN_BE_READ
            target = "flt" if many else "fltp"
            self._resampler = AudioResampler(target, frame.layout, SAMPLE_RATE)
        frame.pts = None  # the timeline alone judges the timestamps
        return [*before, *self._resample_frame(frame)]

    def flush(self) -> list[Samples]:
        pieces = self._resample_frame(None)
        self._resampler = None
        return pieces

    def _resample_frame(self, frame: Any) -> list[Samples]:
        if self._resampler is None:
            return []
        return [_to_samples(piece, 1.0) for piece in self._resampler.resample(frame)]


def _can_be_read(frame: Any) -> bool:
    return not frame.format.is_planar or frame.layout.nb_channels <= _PLANES_THAT_CAN_BE_READ


def _is_planar(frame: Any) -> bool:
    return bool(frame.format.is_planar or frame.layout.nb_channels == 1)


def _to_samples(frame: Any, scale: float) -> Samples:
    if scale == 1.0 and frame.format.name in {"fltp", "flt"} and _is_planar(frame):
        count = frame.samples  # read here, since `to_ndarray` takes twice as long for short frames
        return np.array([np.frombuffer(plane, np.float32, count) for plane in frame.planes])
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.float64:
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is cleaned
            samples = samples.astype(np.float32)
    floats: Samples = np.asarray(samples, dtype=np.float32)
    return floats if scale == 1.0 else floats / np.float32(scale)
