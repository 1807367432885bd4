"""Containers with several audio tracks, with the real reader and the real model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import LanguageFound, TaskDone, WorkerSpec
from speakeasyd.domain.tracks import TrackChoice, TrackSound
from speakeasyd.domain.transcript import TranscribedTrack, WarningKind
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import Model, load_model
from speakeasyd.engine.track_choice import select_tracks
from speakeasyd.engine.vad import VoiceDetector
from tests.conftest import REPOSITORY
from tests.integration.test_engine import (
    PipelineRun,
    build_spec,
    build_task,
    join_text,
    read_samples,
    transcribe_file,
)

pytestmark = pytest.mark.real

ODD = REPOSITORY.parent / "shared" / "data" / "odd"
MULTILINGUAL = os.environ.get("MULTILINGUAL_MODEL", "")
FRAME = 1024  # samples


@dataclass(frozen=True, slots=True)
class TrackContent:
    """A track of a file that the test writes."""

    samples: Samples  # shape (channels, any length)
    language: str = ""
    title: str = ""
    disposition: str = ""
    codec: str = "flac"


def write_container(path: Path, *sounds: TrackContent) -> Path:
    """Write the tracks interleaved, as muxers do."""
    with av.open(str(path), "w") as container:
        packets: list[tuple[Fraction, Any]] = []
        streams = []
        for sound in sounds:
            layout = "mono" if sound.samples.shape[0] == 1 else "stereo"
            stream = container.add_stream(sound.codec, rate=SAMPLE_RATE, layout=layout)
            if sound.language:
                stream.metadata["language"] = sound.language
            if sound.title:
                stream.metadata["title"] = sound.title
            if sound.disposition:
                stream.disposition = getattr(av.stream.Disposition, sound.disposition)
            streams.append(stream)
        for sound, stream in zip(sounds, streams, strict=True):
            packets += [
                (packet.pts * packet.time_base, packet) for packet in encode_track(sound, stream)
            ]
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            container.mux(packet)
    return path


def encode_track(sound: TrackContent, stream: Any) -> list[Any]:
    packets: list[Any] = []
    whole = (np.clip(sound.samples, -1.0, 1.0) * 32767).astype("<i2")
    size = stream.codec_context.frame_size or FRAME
    for start in range(0, whole.shape[1], size):
        piece = np.ascontiguousarray(whole[:, start : start + size].T).reshape(1, -1)
        layout = "mono" if whole.shape[0] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout=layout)
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        packets += stream.encode(frame)
    return [packet for packet in packets + stream.encode(None) if packet.pts is not None]


def create_silence(seconds: float, channels: int = 1) -> Samples:
    return np.zeros((channels, int(seconds * SAMPLE_RATE)), np.float32)


def create_noise(seconds: float) -> Samples:
    random = np.random.default_rng(5)
    return random.normal(0.0, 0.05, (1, int(seconds * SAMPLE_RATE))).astype(np.float32)


def choose_tracks(path: Path, **options: object) -> TrackChoice:
    with av.open(str(path)) as container:
        return select_tracks(container, Options.model_validate(options), VoiceDetector())


def list_track_numbers(choice: TrackChoice) -> list[list[int]]:
    return [[track.number for track in group] for group in choice.groups]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model("bundled", build_spec(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def memo() -> Samples:
    return read_samples("voice_memo")


@pytest.fixture(scope="module")
def meeting() -> Samples:
    return read_samples("meeting")


def list_warnings(run: PipelineRun) -> list[WarningKind]:
    [done] = [report for report in run.reports if isinstance(report, TaskDone)]
    return [warning.kind for warning in done.warnings]


def list_tracks(run: PipelineRun) -> Sequence[TranscribedTrack]:
    [done] = [report for report in run.reports if isinstance(report, TaskDone)]
    return done.tracks


@pytest.mark.parametrize("empty", [create_silence, create_noise])
def test_speech_is_found_beside_a_silent_default_track(
    model: Model, memo: Samples, tmp_path: Path, empty: Callable[[float], Samples]
) -> None:
    alone = transcribe_file(
        model, build_task(write_container(tmp_path / "alone.mkv", TrackContent(memo)))
    )
    beside = write_container(tmp_path / "a.mkv", TrackContent(empty(10.0)), TrackContent(memo))
    run = transcribe_file(model, build_task(beside))
    assert join_text(run.build_chunks()) == join_text(alone.build_chunks()) != ""
    assert list_warnings(run) == [WarningKind.LEFT_OUT]


def test_speech_is_found_late_in_a_long_file(memo: Samples, tmp_path: Path) -> None:
    """The file is longer than the part that is examined, and its default track is never silent."""
    speech = np.concatenate([create_silence(700.0), *[memo] * 12, create_silence(500.0)], axis=1)
    path = write_container(
        tmp_path / "a.mkv", TrackContent(create_noise(1300.0)), TrackContent(speech)
    )
    choice = choose_tracks(path)
    assert list_track_numbers(choice) == [[2]]
    assert choice == choose_tracks(path)


def test_microphones_of_a_camera_are_mixed(model: Model, memo: Samples, tmp_path: Path) -> None:
    sounds = TrackContent(create_silence(5.0), codec="aac"), TrackContent(memo, codec="aac")
    for name in ("a.mov", "a.mp4"):
        run = transcribe_file(model, build_task(write_container(tmp_path / name, *sounds)))
        assert join_text(run.build_chunks())
        assert list_warnings(run) == []
        assert {chunk.track for chunk in run.build_chunks()} == {None}
    together = build_task(tmp_path / "a.mov", options={"channels": "split"})
    split = transcribe_file(model, together)
    assert {chunk.channel for chunk in split.build_chunks()} == {1}


def test_the_requested_language_decides(memo: Samples, meeting: Samples, tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", TrackContent(memo, "eng"), TrackContent(meeting, "deu")
    )
    assert list_track_numbers(choose_tracks(path)) == [[1]]
    assert list_track_numbers(choose_tracks(path, language="de")) == [[2]]
    assert list_track_numbers(choose_tracks(path, languages=["de", "fr"])) == [[2]]
    assert list_track_numbers(choose_tracks(path, language="de", audio=1)) == [[1]]
    assert list_track_numbers(choose_tracks(path, audio="German")) == [[2]]


def test_a_commentary_is_skipped(memo: Samples, tmp_path: Path) -> None:
    for disposition in ("comment", "visual_impaired"):
        comment = TrackContent(memo, "eng", "Commentary", disposition)
        path = write_container(tmp_path / f"{disposition}.mkv", comment, TrackContent(memo, "eng"))
        choice = choose_tracks(path)
        assert list_track_numbers(choice) == [[2]]
        assert '1 (eng, "Commentary", speech)' in choice.warnings[0].text


def test_an_undecodable_track_is_skipped(memo: Samples, tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", TrackContent(memo, codec="pcm_s16le"), TrackContent(memo)
    )
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    choice = choose_tracks(path)
    assert list_track_numbers(choice) == [[2]]
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context is None
    assert list_track_numbers(choose_tracks(path, audio="all")) == [[2]]


def test_all_tracks_are_transcribed_separately(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    sounds = (
        TrackContent(meeting, "eng"),
        TrackContent(memo),
        TrackContent(create_silence(5.0), "fra", "Empty"),
    )
    path = write_container(tmp_path / "a.mkv", *sounds)
    run = transcribe_file(model, build_task(path, options={"audio": "all"}))
    assert list_tracks(run) == (
        TranscribedTrack(1, "eng"),
        TranscribedTrack(2),
        TranscribedTrack(3, "fra", "Empty"),
    )
    assert list_warnings(run) == [WarningKind.SILENT]
    for number, sound in enumerate(sounds[:2], 1):
        alone = transcribe_file(
            model, build_task(write_container(tmp_path / f"{number}.mkv", sound))
        )
        apart = [chunk for chunk in run.build_chunks() if chunk.track == number]
        assert join_text(apart) == join_text(alone.build_chunks()) != ""
        assert {segment.track for chunk in apart for segment in chunk.segments} == {number}


def test_a_restart_finds_the_same_chunks(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    longer = np.concatenate([memo, create_silence(7.0), memo, create_silence(7.0), memo], axis=1)
    path = write_container(
        tmp_path / "a.mkv", TrackContent(longer, "eng"), TrackContent(meeting, "deu")
    )
    whole = build_task(path, options={"audio": "eng,deu"})
    expected = transcribe_file(model, whole).build_chunks()
    for done in (expected[:1], expected[1:]):
        skip = frozenset(chunk.index for chunk in done)
        texts = {chunk.index: chunk.text_in_language for chunk in done}
        rest = transcribe_file(
            model, replace(whole, skip=skip, texts=texts, language="en")
        ).build_chunks()
        assert sorted([*done, *rest], key=lambda chunk: chunk.index) == expected


def test_channels_of_each_track_can_be_split(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    length = max(memo.shape[1], meeting.shape[1])
    both = np.zeros((2, length), np.float32)
    both[0, : memo.shape[1]], both[1, : meeting.shape[1]] = memo[0], meeting[0]
    path = write_container(tmp_path / "a.mkv", TrackContent(both), TrackContent(memo))
    run = transcribe_file(model, build_task(path, options={"audio": "all", "channels": "split"}))
    assert {(chunk.track, chunk.channel) for chunk in run.build_chunks()} == {
        (1, 0),
        (1, 1),
        (2, None),
    }
    first = transcribe_file(model, build_task(path, options={"audio": 1, "channels": "split"}))
    assert {(chunk.track, chunk.channel) for chunk in first.build_chunks()} == {
        (None, 0),
        (None, 1),
    }


@pytest.mark.parametrize(
    ("name", "options", "words", "kinds"),
    [
        ("04_camera_two_mono.mov", {}, True, []),
        ("04_obs_silent_track1.mkv", {}, True, [WarningKind.LEFT_OUT]),
        ("04_two_speakers.mka", {}, True, [WarningKind.LEFT_OUT]),
        ("04_two_speakers.mka", {"audio": "all"}, True, []),
    ],
)
def test_unusual_files_are_decoded(
    model: Model, name: str, options: dict[str, object], words: bool, kinds: list[WarningKind]
) -> None:
    if not (ODD / name).is_file():
        pytest.skip("the odd files are not here")
    run = transcribe_file(model, build_task(ODD / name, options=options))
    assert bool(join_text(run.build_chunks())) is words
    assert list_warnings(run) == kinds
    if options:
        assert {chunk.track for chunk in run.build_chunks()} == {1, 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_track_has_its_language(tmp_path: Path) -> None:
    path = ODD / "14_language_de_eng_default.mkv"
    if not path.is_file() or not MULTILINGUAL:
        pytest.skip("the odd files or a multilingual model are not here")
    base = load_model(
        MULTILINGUAL, WorkerSpec("cpu", "auto", 2, 0, str(tmp_path / "state"), offline=True)
    )
    german = transcribe_file(base, build_task(path, options={"language": "de"}))
    assert list_warnings(german) == [WarningKind.LEFT_OUT]
    assert LanguageFound(1, "mine", "de", 1.0) in german.reports  # type: ignore[arg-type]
    both = transcribe_file(base, build_task(path, options={"audio": "all"}))
    languages = {(chunk.track, chunk.language) for chunk in both.build_chunks()}
    assert languages == {(1, "en"), (2, "de")}
    apart = [chunk for chunk in both.build_chunks() if chunk.track == 2]
    assert join_text(apart) == join_text(german.build_chunks()) != ""


def test_a_shorter_track_is_not_cut(memo: Samples, tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", TrackContent(create_silence(60.0)), TrackContent(memo)
    )
    with MediaFile(str(path)) as source:
        audio = Audio(source, choose_tracks=lambda _container: choose_tracks(path))
        assert sum(block.size for block in audio.blocks()) == memo.size
        assert [warning.kind for warning in audio.warnings()] == [WarningKind.LEFT_OUT]
        audio.close()


def test_a_measured_track_describes_its_content(memo: Samples, tmp_path: Path) -> None:
    path = write_container(
        tmp_path / "a.mkv", *map(TrackContent, (create_silence(3.0, 2), create_noise(3.0), memo))
    )
    with MediaFile(str(path)) as source, av.open(source.file) as container:
        choice = select_tracks(container, Options(), VoiceDetector())
    assert choice.groups[0][0].sound is TrackSound.SPEECH
    assert "1 (silent), 2 (sound, no speech found)" in choice.warnings[0].text
