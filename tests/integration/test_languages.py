"""Files that change between languages, with a multilingual model if there is one."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.protocol import LanguageFound, TaskFailed, WorkerSpec
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import Model, load_model
from tests.integration.test_engine import build_task, join_text, transcribe_file, write_wav

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

MODEL_VARIABLE = "MULTILINGUAL_MODEL"  # folder of a multilingual model, such as base
FOLDER = os.environ.get(MODEL_VARIABLE, "")
PAUSE_S = 0.6
PATIENCE_S = 800.0


@pytest.fixture(scope="module", autouse=True)
def _raise_time_limit() -> Iterator[None]:
    """A multilingual model is slow on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.integration.test_engine.PATIENCE_S", PATIENCE_S)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    if not FOLDER:
        pytest.skip(f"no multilingual model: {MODEL_VARIABLE} does not name its folder")
    state = str(tmp_path_factory.mktemp("state"))
    return load_model(FOLDER, WorkerSpec("cpu", "auto", 2, 0, state, offline=True))


def read_excerpt(path: Path, start_s: float = 0.0, end_s: float | None = None) -> Samples:
    with MediaFile(str(path)) as source:
        samples = np.concatenate(list(Audio(source).blocks()), axis=1)
    return samples[:, int(start_s * SAMPLE_RATE) : end_s and int(end_s * SAMPLE_RATE)]


def join_excerpts(path: Path, *parts: Samples) -> Path:
    pause = np.zeros((1, int(PAUSE_S * SAMPLE_RATE)), np.float32)
    return write_wav(path, np.concatenate([one for part in parts for one in (part, pause)], axis=1))


def list_languages(chunks: Sequence[Chunk]) -> list[str | None]:
    """Return the languages of the segments, without direct repetitions."""
    spoken = [segment.language for chunk in chunks for segment in chunk.segments]
    return [language for language, _ in groupby(spoken)]


@pytest.fixture(scope="module")
def mixed_recording(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in German, English, French, Spanish and English, with changes inside chunks."""
    clips = speech / "clips"
    return join_excerpts(
        tmp_path_factory.mktemp("audio") / "mixed.wav",
        read_excerpt(clips / "aeneas_de.mp3", 0.0, 12.0),
        read_excerpt(speech / "long" / "long_single_reader.mp3", 0.0, 40.0),
        read_excerpt(clips / "leopard_test_fr.wav"),
        read_excerpt(clips / "leopard_test_es.wav"),
        read_excerpt(speech / "long" / "long_single_reader.mp3", 40.0, 70.0),
    )


@pytest.fixture(scope="module")
def expected_chunks(model: Model, mixed_recording: Path) -> list[Chunk]:
    return transcribe_file(model, build_task(mixed_recording)).build_chunks()


def test_each_part_gets_its_language(expected_chunks: list[Chunk]) -> None:
    assert list_languages(expected_chunks) == ["de", "en", "fr", "es", "en"]
    for words in ("abenteuerliche", "the art of making books"):
        assert words in join_text(expected_chunks)
    assert [chunk.language for chunk in expected_chunks] == [
        chunk.segments[-1].language for chunk in expected_chunks
    ]


@pytest.mark.parametrize("done", [{0}, {0, 1}, {1, 3}, {2}, {4}])
def test_a_restart_gives_the_same_text_and_languages(
    model: Model, mixed_recording: Path, expected_chunks: list[Chunk], done: set[int]
) -> None:
    committed = [chunk for chunk in expected_chunks if chunk.index in done]
    rest = build_task(
        mixed_recording,
        language="de",
        skip=frozenset(done),
        texts={chunk.index: chunk.text_in_language for chunk in committed},
        languages={chunk.index: chunk.language for chunk in committed},
    )
    again = transcribe_file(model, rest).build_chunks()
    assert again == [chunk for chunk in expected_chunks if chunk.index not in done]


def test_the_number_of_replicas_changes_nothing(
    model: Model, mixed_recording: Path, expected_chunks: list[Chunk]
) -> None:
    assert (
        transcribe_file(model, build_task(mixed_recording), replicas=1).build_chunks()
        == expected_chunks
    )


def test_german_followed_by_english(model: Model, speech: Path) -> None:
    run = transcribe_file(model, build_task(speech / "odd" / "13_de20_then_en60.opus"))
    assert list_languages(run.build_chunks()) == ["de", "en"]
    assert "abenteuerliche simplicissimus" in join_text(run.build_chunks()).lower()
    assert "the invention of the art of printing" in join_text(run.build_chunks())


def test_a_fixed_language_is_kept(model: Model, speech: Path) -> None:
    german = {"language": "de", "languages": ["en", "fr"]}
    run = transcribe_file(model, build_task(speech / "clips" / "jfk.flac", options=german))
    assert list_languages(run.build_chunks()) == ["de"]


@pytest.mark.parametrize(("allowed", "expected"), [(["de", "it"], "it"), (["es"], "es")])
def test_only_allowed_languages_are_found(
    model: Model, speech: Path, allowed: list[str], expected: str
) -> None:
    spoken = (
        speech / "clips" / ("leopard_test_it.wav" if len(allowed) > 1 else "leopard_test_pt.wav")
    )
    run = transcribe_file(model, build_task(spoken, options={"languages": allowed}))
    assert list_languages(run.build_chunks()) == [expected]
    [found] = run.list_reports(LanguageFound)
    assert isinstance(found, LanguageFound)
    assert found.language == expected


def test_an_unknown_code_is_refused(model: Model, speech: Path) -> None:
    run = transcribe_file(
        model, build_task(speech / "clips" / "jfk.flac", options={"languages": ["en", "xx"]})
    )
    [failed] = run.list_reports(TaskFailed)
    assert "'xx'" in str(failed)


def test_short_speech_keeps_the_language_of_its_neighbours(
    model: Model, speech: Path, tmp_path: Path
) -> None:
    """A short clip far from other speech is a chunk with too little speech for detection."""
    clips = speech / "clips"
    gap = np.zeros((1, 7 * SAMPLE_RATE), np.float32)
    word = read_excerpt(clips / "leopard_test_de.wav", 0.0, 1.2)
    path = join_excerpts(
        tmp_path / "short.wav", read_excerpt(clips / "aeneas_de.mp3", 0.0, 15.0), gap, word, gap
    )
    assert list_languages(transcribe_file(model, build_task(path)).build_chunks()) == ["de"]
