"""Which tracks of an open container are heard, judged by samples from all over it where that matters."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np

from speakeasyd.domain.options import Options
from speakeasyd.domain.tracks import (
    TrackChoice,
    TrackSound,
    choose_tracks,
    must_measure,
    parse_request,
)
from speakeasyd.engine.samples import ChannelMixer, SampleCleaner, Samples
from speakeasyd.engine.track import FrameConverter, require_plausible
from speakeasyd.engine.track_list import describe_tracks
from speakeasyd.engine.vad import VoiceActivity, VoiceDetector
from speakeasyd.errors import FileFault

_CAMERAS = frozenset({"mov", "mxf"})  # formats in which each microphone may be a track
_PROBES = 24  # places all over the file
_PROBE_S = 5.0  # seconds that are heard at each place
_READ_WHOLE_S = _PROBES * _PROBE_S  # a file that is not longer is heard as a whole
_INTERLEAVED_S = 10.0  # seconds that one track's packets may lie behind another's
_MOST_PACKETS = 50_000  # of a place, before it is given up
_SPEECH_PROBABILITY = 0.5
_SPEECH_WINDOWS = 8  # about a quarter of a second of speech, all places together


def select_tracks(container: Any, options: Options, detector: VoiceDetector) -> TrackChoice:
    """The same bytes and options always give the same choice. Moves the position in the container."""
    streams = container.streams.audio
    tracks = describe_tracks(container)
    request = parse_request(options.audio)
    from_camera = bool(_CAMERAS & set(container.format.name.split(",")))
    if must_measure(tracks, request, from_camera=from_camera):
        sounds = _measure_sounds(container, streams, detector)
        tracks = [replace(track, sound=sound) for track, sound in zip(tracks, sounds, strict=True)]
    languages = options.languages if options.language == "auto" else (options.language,)
    return choose_tracks(tracks, request, languages=languages, from_camera=from_camera)


def _measure_sounds(
    container: Any, streams: Sequence[Any], detector: VoiceDetector
) -> list[TrackSound]:
    probes = {stream.index: _TrackProbe(detector) for stream in streams if stream.codec_context}
    decodable = [stream for stream in streams if stream.codec_context]
    for begin, seconds in _list_places(container):
        if not _probe_tracks(container, decodable, begin, seconds, probes):
            break
        if all(probe.sound is TrackSound.SPEECH for probe in probes.values()):
            break
    return [
        probes[stream.index].sound if stream.index in probes else TrackSound.UNDECODABLE
        for stream in streams
    ]


def _list_places(container: Any) -> Iterator[tuple[float | None, float]]:
    """Beginnings (None: without a seek) and seconds; those that tell most come first."""
    seconds = container.duration / av.time_base if container.duration else 0.0
    if seconds <= _READ_WHOLE_S:
        yield None, _READ_WHOLE_S
        return
    start = (container.start_time or 0) / av.time_base
    yield None, _PROBE_S
    for number in range(1, _PROBES):
        yield start + _halve_intervals(number) * (seconds - _PROBE_S), _PROBE_S


def _halve_intervals(number: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8 ...: evenly spread wherever it stops (van der Corput)."""
    fraction, step = 0.0, 0.5
    while number:
        fraction += step * (number & 1)
        number, step = number >> 1, step / 2
    return fraction


def _probe_tracks(
    container: Any,
    streams: Sequence[Any],
    begin: float | None,
    seconds: float,
    probes: dict[int, "_TrackProbe"],
) -> bool:
    """Feed the probes with what is at one place. Returns whether other places can be listened to."""
    try:
        if begin is not None:
            container.seek(int(begin * av.time_base))
        packets = container.demux(*streams)
        for packet in _take_packets(packets, len(streams), seconds):
            probes[packet.stream.index].add_packet(packet)
    except (av.FFmpegError, OSError):  # the transcription itself says what is wrong
        return begin is None
    finally:
        for probe in probes.values():
            probe.finish_place()
    return True


def _take_packets(packets: Iterator[Any], tracks: int, seconds: float) -> Iterator[Any]:
    """Packets until each track has so many seconds, or one is far beyond."""
    first: float | None = None
    complete: set[int] = set()
    counts: Counter[int] = Counter()
    for packet in packets:
        if packet.dts is None and packet.pts is None:
            continue
        time = float((packet.pts if packet.pts is not None else packet.dts) * packet.time_base)
        first = time if first is None else first
        if time - first >= seconds:
            complete.add(packet.stream.index)
        else:
            yield packet
        counts[packet.stream.index] += 1
        beyond = time - first >= seconds + _INTERLEAVED_S
        if beyond or len(complete) == tracks or counts.total() >= _MOST_PACKETS:
            return


class _TrackProbe:
    """What was heard of one track."""

    def __init__(self, detector: VoiceDetector) -> None:
        self._detector = detector
        self._converter = FrameConverter()
        self._mixer = ChannelMixer()
        self._cleaner = SampleCleaner(1)
        self._pieces: list[Samples] = []
        self._decoded = False
        self._packets = 0
        self._speech_windows = 0

    @property
    def sound(self) -> TrackSound:
        if self._speech_windows >= _SPEECH_WINDOWS:
            return TrackSound.SPEECH
        if self._packets and not self._decoded:
            return TrackSound.UNDECODABLE
        silent = not self._decoded or self._cleaner.silent_channels[0]
        return TrackSound.SILENT if silent else TrackSound.AUDIBLE

    def add_packet(self, packet: Any) -> None:
        self._packets += 1
        if self.sound is TrackSound.SPEECH:  # nothing more is to be found out
            return
        try:
            for frame in packet.decode():
                require_plausible(frame)
                self._keep_pieces(self._converter.convert(frame))
        except (av.FFmpegError, FileFault):
            return

    def finish_place(self) -> None:
        """What follows comes from another place of the file."""
        self._keep_pieces(self._converter.flush())
        if not self._pieces:
            return
        block = self._cleaner.clean_samples(np.concatenate(self._pieces, axis=1))
        self._pieces = []
        probabilities = VoiceActivity(self._detector).process_block(block[0])
        self._speech_windows += int((probabilities >= _SPEECH_PROBABILITY).sum())

    def _keep_pieces(self, pieces: list[Samples]) -> None:
        self._decoded = self._decoded or bool(pieces)
        self._pieces += [self._mixer.mix_channels(piece) for piece in pieces if piece.size]
