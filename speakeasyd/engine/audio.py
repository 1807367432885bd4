"""Any media file to blocks of 16 kHz float32 on the file's own clock.

Streaming: memory does not grow with the length of the file. What is done to a file on its way is
in docs/architecture.md, "From a file to blocks".
"""

import errno
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np

from speakeasyd.domain.tracks import AudioTrack, TrackChoice
from speakeasyd.domain.transcript import MediaWarning, WarningKind
from speakeasyd.engine import damage
from speakeasyd.engine.assembly import BLOCK, SAMPLE_RATE, Assembly, Hole
from speakeasyd.engine.layout import Part, find_layout, open_part
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.samples import ChannelMixer, SampleCleaner, Samples
from speakeasyd.engine.timeline import Timeline
from speakeasyd.engine.track import Track
from speakeasyd.engine.track_list import choose_first_track
from speakeasyd.errors import ErrorCode, FileFault

__all__ = ["BLOCK", "SAMPLE_RATE", "Audio", "Hole", "Lane", "Samples", "choose_first_track"]

_READ_BUFFER = 1 << 17  # bytes
_PYAV = int(av.__version__.partition(".")[0])
# PyAV 19 has no such argument: it accepts any bytes in tags.
_IGNORE_BAD_TAGS: dict[str, Any] = {"metadata_errors": "ignore"} if _PYAV < 19 else {}
# How far FFmpeg looks for what the header does not tell: microseconds and bytes, kept in memory
_FAR_PROBE = {"analyzeduration": "3600000000", "probesize": "67108864"}
_MOST_FAILURES = 20  # of reading in a row, before the rest of the file is given up
_DS2_HEADS = frozenset({b"\x03ds2", b"\x03enc"})  # plain, encrypted
_BROADCAST = frozenset({"mpegts", "mpeg"})  # formats whose clock may start anew in the middle
_CLOCK_FROM_ZERO = frozenset({"mov", "matroska"})  # their clock begins at 0, whatever comes first
_LATEST_BEGINNING_S = 3600.0  # a later first sample is a broadcast's clock, not a late beginning

ChooseTracks = Callable[[Any], TrackChoice]
"""From an open container to the audio tracks that are heard. It may read in the container."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the signals that are transcribed side by side."""

    track: AudioTrack | None  # None unless several tracks are transcribed apart
    channel: int | None  # None: all channels are mixed


class Audio:
    """The decoded audio of one source: a lane for each signal that is kept apart, at least one."""

    def __init__(
        self,
        source: MediaFile,
        *,
        split: bool = False,
        max_seconds: float = 0.0,
        choose_tracks: ChooseTracks = choose_first_track,
    ) -> None:
        self._source = source
        self._max_seconds = max_seconds or float("inf")
        _require_known_format(source.file)
        self._layout = find_layout(source.file, source.size)
        self._container = self._open_part(self._layout.parts[0])
        try:
            self._groups = self._choose_tracks(choose_tracks)
            streams = self._find_streams(self._container)
            self._format = self._container.format.name
            whole = len(self._layout.parts) == 1 and not self._layout.parts[0].stale
            self.container_seconds = (
                _find_duration(self._container, [stream for _, stream in streams])
                if whole
                else None
            )
            self._declared = damage.declared_seconds(
                self._format, self.container_seconds, counted=self._layout.counts_frames
            )
            self._check_length(self._declared or 0.0)
        except BaseException:
            self.close()
            raise
        # 0: not even a far look has told; what comes is mixed to one
        self._track_channels = [max(1, stream.codec_context.channels) for _, stream in streams]
        self._cleaner = SampleCleaner(sum(self._track_channels))
        self._mixers = [ChannelMixer() for _ in self._groups]
        self._split = split and sum(self._track_channels) > len(self._groups)
        self.lanes = self._build_lanes()
        self.channels = len(self.lanes)
        self.decoded_seconds = 0.0  # on the timeline, holes included
        self._heard = 0  # samples that were decoded
        self._written = 0  # samples on the timeline at the end of the last part
        self._jumps = 0
        self._lost_seconds = 0.0
        self._broken_reads = 0
        self._unreadable_parts = 0

    def close(self) -> None:
        self._container.close()

    def blocks(self) -> Iterator[Samples]:
        """As `read`, with zeros in place of holes."""
        for item in self.read():
            if isinstance(item, Hole):
                yield from (
                    np.zeros((self.channels, BLOCK), np.float32) for _ in range(item.blocks)
                )
            else:
                yield item

    def read(self) -> Iterator[Samples | Hole]:
        """Blocks of shape (channels, BLOCK), the last one shorter, and the holes between them.

        The same bytes always give the same blocks. Raises `FileFault` when nothing could be decoded
        or the audio is longer than allowed.
        """
        assembly = Assembly(self._track_channels)
        for part in self._layout.parts:
            yield from map(self._finish_block, self._read_part(part, assembly))
        yield from map(self._finish_block, assembly.take_rest())
        if self._heard == 0:
            raise FileFault(
                ErrorCode.NO_SAMPLES,
                "not one sample could be decoded: header only, protected or damaged",
            )

    def warnings(self) -> tuple[MediaWarning, ...]:
        """After the last block: what a reader must know about the audio."""
        found = (
            *self._warnings,
            self._describe_missing(),
            self._repaired_header(),
            self._odd_samples(),
            self._odd_times(),
            self._describe_silence(),
        )
        return tuple(warning for warning in found if warning)

    # --- what is missing or odd -----------------------------------------------------------------

    def _describe_missing(self) -> MediaWarning | None:
        decoded, declared = self.decoded_seconds, self._declared
        by_bytes = damage.seconds_of_bytes(self._layout.missing, self._source.size, decoded)
        if declared and damage.missing_seconds(self._format, declared, decoded):
            text = f"{decoded:.1f} s of {declared:.1f} s could be decoded"
            if self._layout.ends_well:  # nothing more is to come: it is missing in the middle
                return MediaWarning(WarningKind.DAMAGED, f"damaged: {text}")
            return MediaWarning(WarningKind.CUT, f"cut or damaged: {text}")
        if by_bytes:
            text = f"cut: the file ends early, after {decoded:.1f} s; about {by_bytes:.1f} s are missing"
            return MediaWarning(WarningKind.CUT, text)
        text = self._describe_damage()
        return MediaWarning(WarningKind.DAMAGED, f"damaged: {text}") if text else None

    def _describe_damage(self) -> str:
        if damage.is_noticeable(self._lost_seconds):
            return f"{self._lost_seconds:.1f} s could not be decoded and were left out"
        if self._broken_reads:
            return "the container is broken in places, and sound may be missing there"
        if self._unreadable_parts:
            return f"{self._unreadable_parts} of the joined files could not be decoded"
        return ""

    def _repaired_header(self) -> MediaWarning | None:
        if not any(part.stale for part in self._layout.parts):
            return None
        text = (
            f"the header says that the file is shorter; all {self.decoded_seconds:.1f} s were read"
        )
        return MediaWarning(WarningKind.REPAIRED, text)

    def _odd_samples(self) -> MediaWarning | None:
        count = self._cleaner.silenced
        if not count:
            return None
        text = f"{count} samples ({count / SAMPLE_RATE:.2f} s) are not finite or far too large, and became silence"
        return MediaWarning(WarningKind.REPAIRED, text)

    def _odd_times(self) -> MediaWarning | None:
        if not self._jumps:
            return None
        text = f"the timestamps of the file jump (times: {self._jumps}); the sound was joined there"
        return MediaWarning(WarningKind.TIMELINE, text)

    def _describe_silence(self) -> MediaWarning | None:
        silent = self._cleaner.silent_channels
        if all(silent):
            return MediaWarning(WarningKind.SILENT, "silent: nothing can be heard in the recording")
        empty = self._describe_silent_lanes(silent)
        if not empty:
            return None
        return MediaWarning(WarningKind.SILENT, f"silent: nothing can be heard on {empty}")

    def _describe_silent_lanes(self, silent: Sequence[bool]) -> str:
        """Of several: `channel 1, 3`, `audio track 2`."""
        if self._split:
            numbers = [str(number) for number, empty in enumerate(silent, 1) if empty]
            return f"channel {', '.join(numbers)}" if numbers else ""
        flags = iter(silent)
        groups = [
            group[0].number
            for group, count in zip(self._groups, self._count_channels(), strict=True)
            if all(list(itertools.islice(flags, count)))
        ]
        return f"audio track {', '.join(map(str, groups))}" if groups else ""

    # --- decoding -------------------------------------------------------------------------------

    def _check_length(self, seconds: float) -> None:
        if seconds > self._max_seconds:
            raise FileFault(
                ErrorCode.TOO_LONG, f"longer than the allowed {self._max_seconds / 3600:g} hours"
            )

    def _open_part(self, part: Part) -> Any:
        file, size = self._source.file, self._source.size
        container = _open_container(open_part(file, part, size))
        if all(stream.codec_context.channels for stream in _list_decodable(container)):
            return container
        container.close()  # a broadcast's sound begins far behind its pictures
        return _open_container(open_part(file, part, size), **_FAR_PROBE)

    def _choose_tracks(self, choose_tracks: ChooseTracks) -> tuple[tuple[AudioTrack, ...], ...]:
        """The choice for the first part holds for all of them."""
        if not self._container.streams.audio:
            raise FileFault(ErrorCode.NO_AUDIO, "no audio track")
        choice = choose_tracks(self._container)
        self._warnings = choice.warnings
        if len(self._container.streams.audio) > 1:  # it may have been read in
            self._container.close()
            self._container = self._open_part(self._layout.parts[0])
        return choice.groups

    def _find_streams(self, container: Any) -> list[tuple[int, Any]]:
        """The chosen streams, each with its place in the assembly. A part may lack some of them."""
        if not container.streams.audio:
            raise FileFault(ErrorCode.NO_AUDIO, "no audio track")
        tracks = [track for group in self._groups for track in group]
        streams = [
            (place, container.streams.audio[track.number - 1])
            for place, track in enumerate(tracks)
            if track.number <= len(container.streams.audio)
        ] or [(0, container.streams.audio[0])]
        if any(stream.codec_context is None for _, stream in streams):
            raise FileFault(
                ErrorCode.DECODE_FAILED, "the audio is in a format that cannot be decoded"
            )
        return streams

    def _build_lanes(self) -> tuple[Lane, ...]:
        apart = len(self._groups) > 1
        lanes: list[Lane] = []
        for group, channels in zip(self._groups, self._count_channels(), strict=True):
            track = group[0] if apart else None
            numbers = range(channels) if self._split and channels > 1 else [None]
            lanes += [Lane(track, number) for number in numbers]
        return tuple(lanes)

    def _count_channels(self) -> list[int]:
        """Of each group."""
        counts = iter(self._track_channels)
        return [sum(itertools.islice(counts, len(group))) for group in self._groups]

    def _finish_block(self, block: Samples | Hole) -> Samples | Hole:
        length = block.blocks * BLOCK if isinstance(block, Hole) else block.shape[1]
        self.decoded_seconds += length / SAMPLE_RATE
        self._check_length(self.decoded_seconds)
        if isinstance(block, Hole):
            return block
        self._heard += length
        cleaned = self._cleaner.clean_samples(block)
        if self._split:
            return cleaned
        ends = list(itertools.accumulate(self._count_channels()))
        groups = np.split(cleaned, ends[:-1])
        mixed = [
            mixer.mix_channels(group) for mixer, group in zip(self._mixers, groups, strict=True)
        ]
        return mixed[0] if len(mixed) == 1 else np.concatenate(mixed)

    def _read_part(self, part: Part, assembly: Assembly) -> Iterator[Samples | Hole]:
        """The blocks that are complete by the end of the part."""
        try:
            if part != self._layout.parts[0]:
                self._container.close()
                self._container = self._open_part(part)
            streams = self._find_streams(self._container)
        except FileFault as fault:
            if fault.code == ErrorCode.SOURCE_UNREADABLE:
                raise
            self._unreadable_parts += 1
            return
        tracks = {place: Track(self._create_timeline(), self._written) for place, _ in streams}
        for number, frame in self._iterate_frames(streams):
            for piece in tracks[number].add(frame):
                assembly.push(number, piece)
            if assembly.may_be_ready:
                yield from assembly.take_ready()
        for number, track in tracks.items():
            for piece in track.finish():
                assembly.push(number, piece)
        assembly.align()
        yield from assembly.take_ready()
        self._written = max(track.written for track in tracks.values())
        self._jumps += sum(track.timeline.jumps for track in tracks.values())

    def _create_timeline(self) -> Timeline:
        names = set(self._container.format.name.split(","))
        return Timeline(
            _start_of_file(self._container, from_zero=bool(names & _CLOCK_FROM_ZERO)),
            base=self._written / SAMPLE_RATE,
            broadcast=bool(names & _BROADCAST),
        )

    def _iterate_frames(self, streams: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Each frame with the number of its track. What cannot be decoded is counted and left out."""
        numbers = {stream.index: number for number, stream in streams}
        for packet in self._iterate_packets([stream for _, stream in streams]):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._lost_seconds += _packet_seconds(packet)
                continue
            number = numbers[packet.stream.index]
            for frame in frames:
                yield number, frame

    def _iterate_packets(self, streams: Sequence[Any]) -> Iterator[Any]:
        """A container that is damaged is read on behind the damage, as long as that leads anywhere."""
        failures = 0
        packets = self._container.demux(*streams)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                if isinstance(error, OSError) and not _is_bad_seek(error):
                    raise FileFault(
                        ErrorCode.SOURCE_UNREADABLE, f"reading failed: {error.strerror}"
                    ) from error
                failures += 1
                self._broken_reads += 1
                if failures > _MOST_FAILURES:
                    return
                packets = self._container.demux(*streams)
                continue
            if packet is None:
                return
            failures = 0
            yield packet


def _require_known_format(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(4).lower() in _DS2_HEADS:
        raise FileFault(
            ErrorCode.NOT_MEDIA,
            "a DS2 dictation (DSS Pro), which cannot be decoded: export it as WAV or MP3 with "
            "the dictation software",
        )


def _is_bad_seek(error: OSError) -> bool:
    """A damaged header led FFmpeg to a place that no file has: the file is at fault, not the disk."""
    return error.errno == errno.EINVAL


def _packet_seconds(packet: Any) -> float:
    if not packet.duration or packet.time_base is None:
        return 0.0
    return float(packet.duration * packet.time_base)


def _list_decodable(container: Any) -> list[Any]:
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _open_container(file: BinaryIO, **options: str) -> Any:
    try:
        # The open file, never its name: ffmpeg reads names such as "concat:" as commands. No
        # protocol is allowed, so that a playlist cannot name other files or hosts.
        container = av.open(
            file,
            **_IGNORE_BAD_TAGS,
            buffer_size=_READ_BUFFER,
            options={"protocol_whitelist": "none", **options},
        )
    except av.FFmpegError as error:
        raise FileFault(ErrorCode.NOT_MEDIA, "no audio or video that can be opened") from error
    except OSError as error:
        if _is_bad_seek(error):
            raise FileFault(ErrorCode.NOT_MEDIA, "no audio or video that can be opened") from error
        raise FileFault(ErrorCode.SOURCE_UNREADABLE, f"reading failed: {error.strerror}") from error
    if container.format.name.endswith("_pipe"):
        container.close()
        raise FileFault(ErrorCode.NOT_MEDIA, "a picture, not audio")
    return container


def _start_of_file(container: Any, *, from_zero: bool) -> float | None:
    """What a player shows as 0, on the file's clock; None: wherever the first frame is."""
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in container.streams
        if stream.type in {"audio", "video"}
        and stream.start_time is not None
        and not stream.disposition & av.stream.Disposition.attached_pic
    ]
    first = min(starts, default=None)
    if first is not None and from_zero and first <= _LATEST_BEGINNING_S:
        return min(0.0, first)
    return first


def _find_duration(container: Any, streams: Sequence[Any]) -> float | None:
    # Matroska has one length for all of its tracks; FFmpeg may give it to each of them.
    of_each = "matroska" not in container.format.name
    durations = [stream.duration * stream.time_base for stream in streams if stream.duration]
    if durations and of_each:
        return float(max(durations))
    # Others may be longer than those that are heard.
    if container.duration is not None and len(container.streams) == len(streams):
        return float(container.duration / av.time_base)
    return None
