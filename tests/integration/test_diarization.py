"""Speaker detection by the real models, on conversations mixed from real clips."""

import hashlib
import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.diarization import ChunkSpeakers
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import Task
from speakeasyd.domain.speaker_clustering import find_speakers
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Hole, Samples
from speakeasyd.engine.chunk_speakers import ChunkSpeakerFinder
from speakeasyd.engine.clips import Clip, read_clips
from speakeasyd.engine.diarization import SpeakerDetector
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.onnx_models import EMBEDDING, SEGMENTATION
from speakeasyd.engine.vad import VoiceDetector
from tests.sources import AllFolders, build_source_ref

pytestmark = pytest.mark.real

DATA = files("speakeasyd") / "data"
READERS = ("ls_1688-142285", "lj_LJ001", "ls_2033-164914")


@pytest.fixture(scope="module")
def detector() -> SpeakerDetector:
    return SpeakerDetector()


def load_samples(path: Path) -> Samples:
    with MediaFile(str(path)) as source, closing(Audio(source, split=False)) as audio:
        blocks = [block[0] for block in audio.read() if not isinstance(block, Hole)]
    return np.concatenate(blocks)


def load_readings(speech: Path, reader: str, count: int) -> list[Samples]:
    paths = sorted((speech / "clips").glob(f"{reader}*"))[:count]
    if len(paths) < count:
        pytest.skip(f"there are not {count} clips of {reader}")
    cut = [load_samples(path)[: 7 * SAMPLE_RATE] for path in paths]
    return [0.05 * one / np.sqrt(np.mean(one**2)) for one in cut]


def create_conversation(
    speech: Path, readers: Sequence[str], rounds: int
) -> tuple[Samples, list[int]]:
    """Return readers who take turns with pauses of half a second, and the speaker of each sample
    (-1: none).
    """
    spoken = [load_readings(speech, reader, rounds) for reader in readers]
    sound, truth = [], []
    for turn in range(rounds):
        for number, clips in enumerate(spoken):
            sound += [clips[turn], np.zeros(SAMPLE_RATE // 2, np.float32)]
            truth += [number] * clips[turn].size + [-1] * (SAMPLE_RATE // 2)
    return np.concatenate(sound).astype(np.float32), truth


def write_wav(path: Path, *channels: Samples) -> Path:
    sound = np.stack(channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setparams((len(channels), 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound / np.abs(sound).max() * 0.8 * 32767).astype("<i2").tobytes())
    return path


def cut_clips(path: Path, **options: object) -> list[Clip]:
    wanted = Options.model_validate({"speakers": "auto"} | options)
    task = Task(JobId(1), Token("t"), build_source_ref(path), wanted, "en")
    method = ChunkSpeakerFinder().choose_method(wanted)
    found = read_clips(task, VoiceDetector(), folders=AllFolders(), find_speakers=method)
    return [item for item in found if isinstance(item, Clip)]


def list_chunk_speakers(clips: Sequence[Clip]) -> list[tuple[int, ChunkSpeakers]]:
    return [(clip.index, clip.speakers) for clip in clips if clip.speakers]


def test_three_readers_are_three_speakers(speech: Path, tmp_path: Path) -> None:
    sound, truth = create_conversation(speech, READERS, 4)
    chunks = list_chunk_speakers(cut_clips(write_wav(tmp_path / "talk.wav", sound)))
    found = find_speakers(chunks, low=1, high=30)
    assert len(set(found.values())) == 3
    shared = np.zeros((3, 3))
    for index, chunk in chunks:
        for turn in chunk.turns:
            who = next(
                n for key, n in found.items() if (key.chunk, key.speaker) == (index, turn.speaker)
            )
            for at in range(round(turn.start * SAMPLE_RATE), round(turn.end * SAMPLE_RATE), 160):
                if at < len(truth) and truth[at] >= 0 and not turn.overlap:
                    shared[truth[at], who] += 1
    assert shared.max(axis=1).sum() / shared.sum() > 0.98
    assert sorted(shared.argmax(axis=1)) == [0, 1, 2]


def test_one_reader_is_one_speaker(speech: Path, tmp_path: Path) -> None:
    sound, _ = create_conversation(speech, READERS[:1], 5)
    chunks = list_chunk_speakers(cut_clips(write_wav(tmp_path / "memo.wav", sound)))
    assert set(find_speakers(chunks, low=1, high=30).values()) == {0}


def test_the_result_of_a_chunk_depends_only_on_its_samples(
    speech: Path, tmp_path: Path, detector: SpeakerDetector
) -> None:
    sound, _ = create_conversation(speech, READERS[:2], 3)
    clips = cut_clips(write_wav(tmp_path / "talk.wav", sound))
    assert len(clips) >= 2
    for clip in reversed(clips):
        assert detector.find_speakers(clip.samples, clip.start) == clip.speakers


def test_another_process_gives_the_same_result(speech: Path, tmp_path: Path) -> None:
    sound, _ = create_conversation(speech, READERS[:2], 2)
    path = write_wav(tmp_path / "talk.wav", sound)
    program = (
        "import sys, hashlib, json; from pathlib import Path; "
        "from tests.integration.test_diarization import cut_clips; "
        "found = [clip.speakers.to_json() for clip in cut_clips(Path(sys.argv[1]))]; "
        "print(hashlib.sha256(json.dumps(found).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    own = json.dumps([clip.speakers.to_json() for clip in cut_clips(path) if clip.speakers])
    assert done.stdout.strip() == hashlib.sha256(own.encode()).hexdigest()


def test_silence_and_noise_have_no_speaker(detector: SpeakerDetector) -> None:
    for sound in (
        np.zeros(5 * SAMPLE_RATE, np.float32),
        np.zeros(100, np.float32),
        0.01 * np.random.default_rng(1).standard_normal(31 * SAMPLE_RATE).astype(np.float32),
    ):
        assert detector.find_speakers(sound, 0.0).turns == ()


def test_split_channels_are_speakers_by_default(speech: Path, tmp_path: Path) -> None:
    sound, _ = create_conversation(speech, READERS[:2], 2)
    other = np.roll(sound, SAMPLE_RATE)
    path = write_wav(tmp_path / "call.wav", sound, other)
    channels = list_chunk_speakers(cut_clips(path, channels="split"))
    assert {found.model for _, found in channels} == {"channel:Left", "channel:Right"}
    inside = list_chunk_speakers(cut_clips(path, channels="split", speakers=2))
    assert len(set(find_speakers(inside, low=2, high=2).values())) == 2


def test_without_speakers_no_model_is_loaded() -> None:
    program = (
        "import sys; from speakeasyd.domain.options import Options; "
        "from speakeasyd.engine.pipeline import Pipeline; import speakeasyd.daemon; "
        "from speakeasyd.engine.chunk_speakers import ChunkSpeakerFinder; "
        "assert ChunkSpeakerFinder().choose_method(Options()) is None; "
        "assert ChunkSpeakerFinder().choose_method(Options(speakers='auto')); "
        "assert 'speakeasyd.engine.diarization' not in sys.modules; "
        "assert 'speakeasyd.domain.speaker_clustering' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_model_is_a_warning(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    sound, _ = create_conversation(speech, READERS[:1], 1)
    path = write_wav(tmp_path / "memo.wav", sound)
    (tmp_path / "data" / "speakers").mkdir(parents=True)
    shutil.copytree(DATA / "voice_detection", tmp_path / "data" / "voice_detection")
    if damage == "changed":
        for name in (SEGMENTATION, EMBEDDING):
            content = (DATA / name).read_bytes()
            (tmp_path / "data" / name).write_bytes(content[:-1] + b"x")
    monkeypatch.setattr("speakeasyd.engine.onnx_models.files", lambda _package: tmp_path)
    [clip] = cut_clips(path)
    assert clip.speakers is not None
    assert clip.speakers.error.startswith("OnnxModelDamaged: the model speakers/")
    assert clip.speakers.speakers == ()


def test_a_conversation_is_published_with_its_speakers(speech: Path, tmp_path: Path) -> None:
    """From a file to transcripts with speakers, and again after a change."""
    sound, _ = create_conversation(speech, READERS[:2], 3)
    inbox, outbox, state = (tmp_path / name for name in ("inbox", "outbox", "state"))
    inbox.mkdir()
    write_wav(inbox / "talk.wav", sound)
    folders = ("--inbox", inbox, "--outbox", outbox, "--state", state)
    options = ("--model", "bundled", "--speakers", "auto", "--formats", "txt,json,vtt,tsv")

    def run_daemon(*arguments: object) -> None:
        command = [sys.executable, "-m", "speakeasyd", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run_daemon("once", *folders, *options)
    document = json.loads((outbox / "talk.json").read_text("utf-8"))
    assert [speaker["number"] for speaker in document["speakers"]] == [1, 2]
    assert {segment["speaker"] for segment in document["segments"]} == {1, 2}
    assert {turn["speaker"] for turn in document["turns"]} == {1, 2}
    paragraphs = (outbox / "talk.txt").read_text("utf-8").split("\n\n")
    labels = [paragraph.partition(":")[0].strip() for paragraph in paragraphs]
    assert labels == ["Speaker 1", "Speaker 2"] * 3
    assert "<v Speaker 2>" in (outbox / "talk.vtt").read_text("utf-8")
    assert "\tspeaker\n" in (outbox / "talk.tsv").read_text("utf-8")
    shutil.rmtree(inbox)
    inbox.mkdir()
    voice = write_wav(
        tmp_path / "voice.wav", np.concatenate(load_readings(speech, READERS[0], 5)[3:])
    )
    run_daemon("people", "add", "Anna", voice, "--state", state)
    run_daemon("speakers", 1, "--count", "auto", "--name", "2=Bo", "--state", state)
    run_daemon("once", *folders, *options)
    paragraphs = (outbox / "talk.txt").read_text("utf-8").split("\n\n")
    assert [paragraph.partition(":")[0].strip() for paragraph in paragraphs] == ["Anna", "Bo"] * 3
    assert sorted(path.name for path in outbox.iterdir()) == [
        "talk.json",
        "talk.tsv",
        "talk.txt",
        "talk.vtt",
    ]
