"""Any media file to blocks of 16 kHz float32, streaming: memory does not grow with the length of the file."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from speakeasyd.domain.transcript import MediaWarning, WarningKind
from speakeasyd.engine import damage
from speakeasyd.engine.source import Source
from speakeasyd.errors import ErrorCode, FileFault

Samples = NDArray[np.float32]

SAMPLE_RATE = 16_000
BLOCK = 16_384  # samples: 1.024 s, 32 windows of the voice activity detector
_RATES = range(2_000, 768_001)  # Hz: outside lie forged headers, one frame of which could fill the memory
_MAX_CHANNELS = 64
_READ_BUFFER = 1 << 17  # bytes
_ANTIPHASE = 0.1  # a sum with less energy than this share of the difference is cancelling itself out
_PYAV = int(av.__version__.partition(".")[0])
# PyAV 19 has no such argument: it accepts any bytes in tags.
_IGNORE_BAD_TAGS: dict[str, Any] = {"metadata_errors": "ignore"} if _PYAV < 19 else {}
_FULL_SCALE = {"s16": 32_768.0, "s32": 2_147_483_648.0, "flt": 1.0, "dbl": 1.0}


class Audio:
    """The decoded audio of one source. `channels` is 1 unless they are kept apart."""

    def __init__(self, source: Source, *, split: bool = False, max_seconds: float = 0.0) -> None:
        self._source = source
        self._max_seconds = max_seconds or float("inf")
        self._container = _open(source)
        try:
            self._stream = _first_audio(self._container)
            self.container_seconds = _seconds(self._container, self._stream)
            self._declared = damage.declared_seconds(
                self._container.format.name, self.container_seconds, encoder_delay=bool(self._stream.start_time)
            )
            self._check_length(self._declared or 0.0)
        except BaseException:
            self.close()
            raise
        source_channels = self._stream.codec_context.channels
        self.channels = source_channels if split and source_channels > 1 else 1
        self._samples = 0
        self.damaged_frames = 0

    def close(self) -> None:
        self._container.close()

    @property
    def decoded_seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    def blocks(self) -> Iterator[Samples]:
        """Blocks of shape (channels, BLOCK), the last one shorter: the same for the same bytes, always.

        Raises `FileFault` when nothing could be decoded or the audio is longer than allowed.
        """
        for block in _regroup(self._pieces()):
            self._samples += block.shape[1]
            self._check_length(self.decoded_seconds)
            yield block if self.channels > 1 else _mono(block)
        if self._samples == 0:
            raise FileFault(ErrorCode.NO_SAMPLES, "not one sample could be decoded: header only, protected or damaged")

    def warning(self) -> MediaWarning | None:
        """After the last block: what a reader must know about missing audio."""
        if damage.cut_short(self._declared, self.decoded_seconds):
            text = f"cut or damaged: {self.decoded_seconds:.1f} s of {self._declared:.1f} s could be decoded"
            return MediaWarning(WarningKind.CUT, text)
        if self.damaged_frames:
            text = f"damaged: {self.damaged_frames} frames could not be decoded and were left out"
            return MediaWarning(WarningKind.DAMAGED, text)
        if damage.lacks_its_end(self._source.file, self._source.size):
            text = f"cut: the file ends early, after {self.decoded_seconds:.1f} s"
            return MediaWarning(WarningKind.CUT, text)
        return None

    def _check_length(self, seconds: float) -> None:
        if seconds > self._max_seconds:
            raise FileFault(ErrorCode.TOO_LONG, f"longer than the allowed {self._max_seconds / 3600:g} hours")

    def _pieces(self) -> Iterator[Samples]:
        """Decoded audio at 16 kHz, shape (source channels, at most 2 unless split; any length)."""
        layout = None if self.channels > 1 or self._stream.codec_context.channels <= 2 else "stereo"
        converter = _Converter(layout)
        for frame in self._frames():
            yield from converter.convert(frame)
        yield from converter.flush()

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged_frames += 1
                continue
            except OSError as error:
                raise FileFault(ErrorCode.SOURCE_UNREADABLE, f"reading failed: {error.strerror}") from error
            for frame in frames:
                if frame.sample_rate not in _RATES or frame.layout.nb_channels > _MAX_CHANNELS:
                    raise FileFault(
                        ErrorCode.DECODE_FAILED,
                        f"{frame.sample_rate} Hz with {frame.layout.nb_channels} channels is no recording",
                    )
                yield frame


class _Converter:
    """Frames to float32 at 16 kHz; without a resampler where only the sample format differs."""

    def __init__(self, layout: str | None) -> None:
        self._layout = layout
        self._setup: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def convert(self, frame: Any) -> Iterator[Samples]:
        scale = _FULL_SCALE.get(frame.format.packed.name)
        if frame.sample_rate == SAMPLE_RATE and self._layout is None and scale:
            yield _planar(frame, scale)
            return
        setup = (frame.format.name, frame.layout.name, frame.sample_rate)
        if setup != self._setup:  # a stream may change in the middle
            yield from self.flush()
            self._setup = setup
            self._resampler = AudioResampler(format="fltp", layout=self._layout or frame.layout, rate=SAMPLE_RATE)
        frame.pts = None  # gaps in the timestamps must not make the resampler invent silence
        yield from self._resampled(frame)

    def flush(self) -> Iterator[Samples]:
        if self._resampler is not None:
            yield from self._resampled(None)
            self._resampler = None

    def _resampled(self, frame: Any) -> Iterator[Samples]:
        assert self._resampler is not None  # noqa: S101 - narrows the type
        for piece in self._resampler.resample(frame):
            yield np.asarray(piece.to_ndarray(), np.float32)


def _open(source: Source) -> Any:
    try:
        # The open file, never its name: ffmpeg reads names such as "concat:" as commands. No protocol is allowed, so
        # that a playlist cannot name other files or hosts.
        container = av.open(
            source.file,
            **_IGNORE_BAD_TAGS,
            buffer_size=_READ_BUFFER,
            options={"protocol_whitelist": "none"},
        )
    except av.FFmpegError as error:
        raise FileFault(ErrorCode.NOT_MEDIA, "no audio or video that can be opened") from error
    except OSError as error:
        raise FileFault(ErrorCode.SOURCE_UNREADABLE, f"reading failed: {error.strerror}") from error
    if container.format.name.endswith("_pipe"):
        container.close()
        raise FileFault(ErrorCode.NOT_MEDIA, "a picture, not audio")
    return container


def _first_audio(container: Any) -> Any:
    streams = container.streams.audio
    if not streams:
        raise FileFault(ErrorCode.NO_AUDIO, "no audio track")
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise FileFault(ErrorCode.DECODE_FAILED, "the audio is in a format that cannot be decoded")
    return stream


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == len(container.streams.audio):
        return float(container.duration / av.time_base)
    return None


def _planar(frame: Any, scale: float) -> Samples:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    floats: Samples = np.asarray(samples, dtype=np.float32)
    return floats if scale == 1.0 else floats / np.float32(scale)


def _regroup(pieces: Iterator[Samples]) -> Iterator[Samples]:
    """Pieces of any length to blocks of BLOCK samples; only the last is shorter."""
    waiting: list[Samples] = []
    length = 0
    for piece in pieces:
        if waiting and piece.shape[0] != waiting[0].shape[0]:
            piece = _like(piece, waiting[0].shape[0])  # noqa: PLW2901 - the layout changed in the middle
        waiting.append(piece)
        length += piece.shape[1]
        if length >= BLOCK:
            joined = np.concatenate(waiting, axis=1)
            whole = length - length % BLOCK
            for start in range(0, whole, BLOCK):
                yield joined[:, start : start + BLOCK]
            waiting, length = [joined[:, whole:]], length - whole
    if length:
        yield np.concatenate(waiting, axis=1)


def _like(piece: Samples, channels: int) -> Samples:
    mono = piece.mean(axis=0, keepdims=True, dtype=np.float32)
    return np.repeat(mono, channels, axis=0)


def _mono(block: Samples) -> Samples:
    """Shape (1, n). Stereo is averaged, unless its channels are each other's opposite and would cancel out."""
    if block.shape[0] == 1:
        return block
    half = block * np.float32(0.5)
    middle, side = half[:1] + half[1:2], half[:1] - half[1:2]
    return side if np.vdot(middle, middle) < _ANTIPHASE * np.vdot(side, side) else middle
