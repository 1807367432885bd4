"""Containers with several audio tracks, through the real reader and the real model."""

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
from tests.integration.test_engine import Run, samples_of, spec, task, text, transcribe

pytestmark = pytest.mark.real

ODD = REPOSITORY.parent / "shared" / "data" / "odd"
MULTILINGUAL = os.environ.get("MULTILINGUAL_MODEL", "")
FRAME = 1024  # samples


@dataclass(frozen=True, slots=True)
class Sound:
    """A track of a file that a test writes."""

    samples: Samples  # shape (channels, any length)
    language: str = ""
    title: str = ""
    disposition: str = ""
    codec: str = "flac"


def write(path: Path, *sounds: Sound) -> Path:
    """The tracks interleaved, as every muxer does it."""
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
            packets += [(packet.pts * packet.time_base, packet) for packet in encode(sound, stream)]
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            container.mux(packet)
    return path


def encode(sound: Sound, stream: Any) -> list[Any]:
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


def silence(seconds: float, channels: int = 1) -> Samples:
    return np.zeros((channels, int(seconds * SAMPLE_RATE)), np.float32)


def noise(seconds: float) -> Samples:
    random = np.random.default_rng(5)
    return random.normal(0.0, 0.05, (1, int(seconds * SAMPLE_RATE))).astype(np.float32)


def select(path: Path, **options: object) -> TrackChoice:
    with av.open(str(path)) as container:
        return select_tracks(container, Options.model_validate(options), VoiceDetector())


def numbers(choice: TrackChoice) -> list[list[int]]:
    return [[track.number for track in group] for group in choice.groups]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model("bundled", spec(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def memo() -> Samples:
    return samples_of("voice_memo")


@pytest.fixture(scope="module")
def meeting() -> Samples:
    return samples_of("meeting")


def warnings_of(run: Run) -> list[WarningKind]:
    [done] = [report for report in run.reports if isinstance(report, TaskDone)]
    return [warning.kind for warning in done.warnings]


def tracks_of(run: Run) -> Sequence[TranscribedTrack]:
    [done] = [report for report in run.reports if isinstance(report, TaskDone)]
    return done.tracks


@pytest.mark.parametrize("empty", [silence, noise])
def test_speech_is_found_beside_a_default_track_without(
    model: Model, memo: Samples, tmp_path: Path, empty: Callable[[float], Samples]
) -> None:
    alone = transcribe(model, task(write(tmp_path / "alone.mkv", Sound(memo))))
    beside = write(tmp_path / "a.mkv", Sound(empty(10.0)), Sound(memo))
    run = transcribe(model, task(beside))
    assert text(run.chunks()) == text(alone.chunks()) != ""
    assert warnings_of(run) == [WarningKind.LEFT_OUT]


def test_speech_is_found_late_in_a_long_file(memo: Samples, tmp_path: Path) -> None:
    """Longer than what is listened to, with a default track that is never silent."""
    speech = np.concatenate([silence(700.0), *[memo] * 12, silence(500.0)], axis=1)
    path = write(tmp_path / "a.mkv", Sound(noise(1300.0)), Sound(speech))
    choice = select(path)
    assert numbers(choice) == [[2]]
    assert choice == select(path)


def test_microphones_of_a_camera_are_mixed(model: Model, memo: Samples, tmp_path: Path) -> None:
    sounds = Sound(silence(5.0), codec="aac"), Sound(memo, codec="aac")
    for name in ("a.mov", "a.mp4"):
        run = transcribe(model, task(write(tmp_path / name, *sounds)))
        assert text(run.chunks())
        assert warnings_of(run) == []
        assert {chunk.track for chunk in run.chunks()} == {None}
    together = task(tmp_path / "a.mov", options={"channels": "split"})
    split = transcribe(model, together)
    assert {chunk.channel for chunk in split.chunks()} == {1}


def test_the_asked_language_decides(memo: Samples, meeting: Samples, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Sound(memo, "eng"), Sound(meeting, "deu"))
    assert numbers(select(path)) == [[1]]
    assert numbers(select(path, language="de")) == [[2]]
    assert numbers(select(path, languages=["de", "fr"])) == [[2]]
    assert numbers(select(path, language="de", audio=1)) == [[1]]
    assert numbers(select(path, audio="German")) == [[2]]


def test_a_commentary_is_passed_over(memo: Samples, tmp_path: Path) -> None:
    for disposition in ("comment", "visual_impaired"):
        comment = Sound(memo, "eng", "Commentary", disposition)
        path = write(tmp_path / f"{disposition}.mkv", comment, Sound(memo, "eng"))
        choice = select(path)
        assert numbers(choice) == [[2]]
        assert '1 (eng, "Commentary", speech)' in choice.warnings[0].text


def test_a_track_that_cannot_be_decoded_is_passed_over(memo: Samples, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Sound(memo, codec="pcm_s16le"), Sound(memo))
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    choice = select(path)
    assert numbers(choice) == [[2]]
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context is None
    assert numbers(select(path, audio="all")) == [[2]]


def test_all_tracks_are_transcribed_apart(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    sounds = Sound(meeting, "eng"), Sound(memo), Sound(silence(5.0), "fra", "Empty")
    path = write(tmp_path / "a.mkv", *sounds)
    run = transcribe(model, task(path, options={"audio": "all"}))
    assert tracks_of(run) == (
        TranscribedTrack(1, "eng"),
        TranscribedTrack(2),
        TranscribedTrack(3, "fra", "Empty"),
    )
    assert warnings_of(run) == [WarningKind.SILENT]
    for number, sound in enumerate(sounds[:2], 1):
        alone = transcribe(model, task(write(tmp_path / f"{number}.mkv", sound)))
        apart = [chunk for chunk in run.chunks() if chunk.track == number]
        assert text(apart) == text(alone.chunks()) != ""
        assert {segment.track for chunk in apart for segment in chunk.segments} == {number}


def test_a_restart_finds_the_same_chunks(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    longer = np.concatenate([memo, silence(7.0), memo, silence(7.0), memo], axis=1)
    path = write(tmp_path / "a.mkv", Sound(longer, "eng"), Sound(meeting, "deu"))
    whole = task(path, options={"audio": "eng,deu"})
    undisturbed = transcribe(model, whole).chunks()
    for done in (undisturbed[:1], undisturbed[1:]):
        skip = frozenset(chunk.index for chunk in done)
        said = {chunk.index: chunk.text_in_language for chunk in done}
        rest = transcribe(model, replace(whole, skip=skip, said=said, language="en")).chunks()
        assert sorted([*done, *rest], key=lambda chunk: chunk.index) == undisturbed


def test_channels_of_each_track_can_be_apart(
    model: Model, memo: Samples, meeting: Samples, tmp_path: Path
) -> None:
    length = max(memo.shape[1], meeting.shape[1])
    both = np.zeros((2, length), np.float32)
    both[0, : memo.shape[1]], both[1, : meeting.shape[1]] = memo[0], meeting[0]
    path = write(tmp_path / "a.mkv", Sound(both), Sound(memo))
    run = transcribe(model, task(path, options={"audio": "all", "channels": "split"}))
    assert {(chunk.track, chunk.channel) for chunk in run.chunks()} == {(1, 0), (1, 1), (2, None)}
    first = transcribe(model, task(path, options={"audio": 1, "channels": "split"}))
    assert {(chunk.track, chunk.channel) for chunk in first.chunks()} == {(None, 0), (None, 1)}


@pytest.mark.parametrize(
    ("name", "options", "words", "kinds"),
    [
        ("04_camera_two_mono.mov", {}, True, []),
        ("04_obs_silent_track1.mkv", {}, True, [WarningKind.LEFT_OUT]),
        ("04_two_speakers.mka", {}, True, [WarningKind.LEFT_OUT]),
        ("04_two_speakers.mka", {"audio": "all"}, True, []),
    ],
)
def test_odd_files(
    model: Model, name: str, options: dict[str, object], words: bool, kinds: list[WarningKind]
) -> None:
    if not (ODD / name).is_file():
        pytest.skip("the odd files are not here")
    run = transcribe(model, task(ODD / name, options=options))
    assert bool(text(run.chunks())) is words
    assert warnings_of(run) == kinds
    if options:
        assert {chunk.track for chunk in run.chunks()} == {1, 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_track_has_its_language(tmp_path: Path) -> None:
    path = ODD / "14_language_de_eng_default.mkv"
    if not path.is_file() or not MULTILINGUAL:
        pytest.skip("the odd files or a multilingual model are not here")
    base = load_model(
        MULTILINGUAL, WorkerSpec("cpu", "auto", 2, 0, str(tmp_path / "state"), offline=True)
    )
    german = transcribe(base, task(path, options={"language": "de"}))
    assert warnings_of(german) == [WarningKind.LEFT_OUT]
    assert LanguageFound(1, "mine", "de", 1.0) in german.reports  # type: ignore[arg-type]
    both = transcribe(base, task(path, options={"audio": "all"}))
    languages = {(chunk.track, chunk.language) for chunk in both.chunks()}
    assert languages == {(1, "en"), (2, "de")}
    apart = [chunk for chunk in both.chunks() if chunk.track == 2]
    assert text(apart) == text(german.chunks()) != ""


def test_a_track_that_ends_before_the_others_is_not_cut(memo: Samples, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Sound(silence(60.0)), Sound(memo))
    with MediaFile(str(path)) as source:
        audio = Audio(source, choose_tracks=lambda _container: select(path))
        assert sum(block.size for block in audio.blocks()) == memo.size
        assert [warning.kind for warning in audio.warnings()] == [WarningKind.LEFT_OUT]
        audio.close()


def test_a_measured_track_says_what_is_in_it(memo: Samples, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", *map(Sound, (silence(3.0, 2), noise(3.0), memo)))
    with MediaFile(str(path)) as source, av.open(source.file) as container:
        choice = select_tracks(container, Options(), VoiceDetector())
    assert choice.groups[0][0].sound is TrackSound.SPEECH
    assert "1 (silent), 2 (sound, no speech found)" in choice.warnings[0].text
