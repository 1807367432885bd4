"""Audio is placed by the container's timestamps: late starts, holes, several tracks."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import Task
from speakeasyd.domain.tracks import TrackChoice
from speakeasyd.domain.transcript import MediaWarning, WarningKind
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Hole, Samples
from speakeasyd.engine.clips import Clip, read_clips
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.track_list import describe_tracks
from speakeasyd.engine.vad import VoiceDetector
from tests.sources import AllFolders, build_source_ref

RATE = 48_000  # of the files, Hz
FRAME = 960  # samples
PRECISION_S = 0.05
CONTAINERS = [
    ("a.mp4", "aac", "mpeg4"),
    ("a.mov", "aac", "mpeg4"),
    ("a.mkv", "libopus", "mpeg4"),
    ("a.mkv", "aac", "mpeg4"),
    ("a.webm", "libopus", "libvpx"),
    ("a.ts", "mp2", "mpeg2video"),
    ("a.ts", "aac", "mpeg2video"),
    ("a.mpg", "mp2", "mpeg2video"),
]


def create_beep(seconds: float, hertz: float = 800.0) -> np.ndarray:
    count = int(seconds * RATE) // FRAME * FRAME
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / RATE), np.float32)


def write_container(
    path: Path,
    codec: str,
    sounds: Sequence[Sequence[tuple[float, np.ndarray]]],
    *,
    video: str | None = None,
    seconds: float = 12.0,
) -> Path:
    """Write tracks with sounds that begin at given times, and no packets between them."""
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream(codec, rate=RATE, layout="mono") for _ in sounds]
        packets: list[tuple[float, Any]] = []
        if video:
            picture = container.add_stream(video, rate=25)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for number in range(int(seconds * 25)):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                frame.pts = number
                packets += [(number / 25, packet) for packet in picture.encode(frame)]
            packets += [(seconds, packet) for packet in picture.encode(None)]
        for track, parts in zip(tracks, sounds, strict=True):
            size = track.codec_context.frame_size or FRAME
            for begin, sound in parts:
                for start in range(0, sound.size, size):
                    samples = np.zeros((1, size), np.float32)
                    samples[0, : sound[start : start + size].size] = sound[start : start + size]
                    if track.codec_context.format.name.startswith("s16"):
                        samples = (samples * 32767).astype(np.int16)
                    frame = av.AudioFrame.from_ndarray(
                        samples, format=track.codec_context.format.name, layout="mono"
                    )
                    frame.sample_rate, frame.pts = RATE, int(begin * RATE) + start
                    packets += [(frame.pts / RATE, packet) for packet in track.encode(frame)]
            packets += [(1e9, packet) for packet in track.encode(None)]
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            container.mux(packet)
    return path


def decode(path: Path, **options: Any) -> tuple[Samples, tuple[MediaWarning, ...]]:
    with MediaFile(str(path)) as source:
        audio = Audio(source, **options)
        samples = np.concatenate(list(audio.blocks()), axis=1)
        warnings = audio.warnings()
        assert audio.decoded_seconds == pytest.approx(samples.shape[1] / SAMPLE_RATE)
        audio.close()
    return samples, warnings


def find_onsets(channel: np.ndarray) -> list[float]:
    """Return when the channel becomes loud after at least 100 ms of silence, in seconds."""
    window = SAMPLE_RATE // 200
    peaks = np.abs(channel[: channel.size // window * window]).reshape(-1, window).max(axis=1)
    found, last = [], -100
    for index in np.flatnonzero(peaks > 0.15):
        if index - last > 20:
            found.append(float(index) / 200)
        last = int(index)
    return found


@pytest.mark.parametrize(("name", "codec", "video"), CONTAINERS)
def test_a_late_start_and_a_hole_are_kept(
    tmp_path: Path, name: str, codec: str, video: str
) -> None:
    path = write_container(
        tmp_path / name,
        codec,
        [[(2.0, create_beep(1.0)), (7.0, create_beep(1.0)), (8.5, create_beep(1.0))]],
        video=video,
    )
    samples, warnings = decode(path)
    assert find_onsets(samples[0]) == pytest.approx([2.0, 7.0, 8.5], abs=PRECISION_S)
    assert warnings == ()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_audio_without_video_may_begin_late(tmp_path: Path, name: str) -> None:
    samples, _ = decode(write_container(tmp_path / name, "libopus", [[(3.0, create_beep(1.0))]]))
    assert find_onsets(samples[0]) == pytest.approx([3.0], abs=PRECISION_S)


@pytest.mark.parametrize(
    ("name", "codec", "video"),
    [
        ("a.mkv", "aac", "mpeg4"),
        ("a.mp4", "aac", "mpeg4"),
        ("a.ts", "mp2", "mpeg2video"),
        ("a.mpg", "mp2", "mpeg2video"),
    ],
)
def test_audio_may_begin_long_after_the_video(
    tmp_path: Path, name: str, codec: str, video: str
) -> None:
    """FFmpeg probes only a few seconds of a track. The video continues after the audio."""
    sound = [(50.0, create_beep(2.0))]
    samples, warnings = decode(
        write_container(tmp_path / name, codec, [sound], video=video, seconds=60.0)
    )
    assert find_onsets(samples[0]) == pytest.approx([50.0], abs=PRECISION_S)
    assert warnings == ()


def test_small_holes_add_up(tmp_path: Path) -> None:
    """A connection that loses packets causes such holes."""
    parts = [(1.0 + number * 0.54, create_beep(0.52)) for number in range(60)]
    samples, warnings = decode(
        write_container(tmp_path / "a.mkv", "libopus", [[(0.0, 0 * create_beep(1.0)), *parts]])
    )
    assert samples.shape[1] / SAMPLE_RATE == pytest.approx(1.0 + 59 * 0.54 + 0.52, abs=PRECISION_S)
    assert warnings == ()


def test_a_hole_of_twenty_hours_uses_no_time(tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", "libopus", [[(0.0, create_beep(1.0)), (72_000.0, create_beep(1.0))]]
    )
    began = time.process_time()
    with MediaFile(str(path)) as source:
        audio = Audio(source)
        items = list(audio.read())
        audio.close()
    assert time.process_time() - began < 5.0  # CPU time, not wall time
    holes = [item for item in items if isinstance(item, Hole)]
    assert len(holes) == 1
    assert len(items) < 10
    assert audio.decoded_seconds == pytest.approx(72_001.0, abs=PRECISION_S)


def test_chunks_after_a_hole_have_the_times_of_the_file(tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", "libopus", [[(0.0, create_beep(3.0)), (3600.0, create_beep(3.0))]]
    )
    for vad in (False, True):
        task = Task(1, "token", build_source_ref(path), Options(vad=vad), "en")  # type: ignore[arg-type] # plain ids
        items = list(read_clips(task, VoiceDetector(), folders=AllFolders()))
        clips = [item for item in items if isinstance(item, Clip)]
        assert all(clip.seconds < 10.0 for clip in clips)
        if not vad:
            assert [clip.start for clip in clips] == pytest.approx([0.0, 3600.0 - 0.32], abs=1.1)
            assert find_onsets(clips[1].samples)[0] + clips[1].start == pytest.approx(
                3600.0, abs=PRECISION_S
            )


def test_the_same_bytes_give_the_same_blocks(tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", "libopus", [[(1.0, create_beep(2.0)), (40.0, create_beep(2.0))]]
    )
    assert np.array_equal(decode(path)[0], decode(path)[0])


def all_tracks(container: Any) -> TrackChoice:
    return TrackChoice((tuple(describe_tracks(container)),))


def test_tracks_together_share_one_clock(tmp_path: Path) -> None:
    """Offsets, holes and lengths vary."""
    first = [(1.0, create_beep(1.0)), (300.0, create_beep(1.0))]
    second = [(4.0, create_beep(1.0, 500.0)), (5.5, create_beep(1.0, 500.0))]
    path = write_container(tmp_path / "a.mkv", "libopus", [first, second])
    apart, warnings = decode(path, split=True, choose_tracks=all_tracks)
    assert find_onsets(apart[0]) == pytest.approx([1.0, 300.0], abs=PRECISION_S)
    assert find_onsets(apart[1]) == pytest.approx([4.0, 5.5], abs=PRECISION_S)
    mixed, _ = decode(path, choose_tracks=all_tracks)
    assert find_onsets(mixed[0]) == pytest.approx([1.0, 4.0, 5.5, 300.0], abs=PRECISION_S)
    assert warnings == ()


def test_concatenated_files_are_complete(tmp_path: Path) -> None:
    one = write_container(
        tmp_path / "a.ts",
        "mp2",
        [[(0.0, create_beep(1.0)), (2.0, create_beep(1.0))]],
        video="mpeg2video",
        seconds=3.0,
    )
    path = tmp_path / "b.ts"
    path.write_bytes(one.read_bytes() * 2)
    samples, warnings = decode(path)
    assert len(find_onsets(samples[0])) in {
        3,
        4,
    }  # the first ends where the second begins
    assert samples.shape[1] / SAMPLE_RATE == pytest.approx(6.0, abs=0.1)
    assert [warning.kind for warning in warnings] == [WarningKind.TIMELINE]
