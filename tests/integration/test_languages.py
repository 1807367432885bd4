"""Files that change between languages, with a multilingual model where one is here."""

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
from tests.integration.test_engine import task, text, transcribe, write_wav

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

MODEL_VARIABLE = "MULTILINGUAL_MODEL"  # names a folder with a multilingual model, such as base
FOLDER = os.environ.get(MODEL_VARIABLE, "")
PAUSE_S = 0.6
PATIENCE_S = 800.0


@pytest.fixture(scope="module", autouse=True)
def _patience() -> Iterator[None]:
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


def read(path: Path, start_s: float = 0.0, end_s: float | None = None) -> Samples:
    with MediaFile(str(path)) as source:
        samples = np.concatenate(list(Audio(source).blocks()), axis=1)
    return samples[:, int(start_s * SAMPLE_RATE) : end_s and int(end_s * SAMPLE_RATE)]


def join(path: Path, *parts: Samples) -> Path:
    pause = np.zeros((1, int(PAUSE_S * SAMPLE_RATE)), np.float32)
    return write_wav(path, np.concatenate([one for part in parts for one in (part, pause)], axis=1))


def languages(chunks: Sequence[Chunk]) -> list[str | None]:
    """Of the segments, each as often as it begins anew."""
    spoken = [segment.language for chunk in chunks for segment in chunk.segments]
    return [language for language, _ in groupby(spoken)]


@pytest.fixture(scope="module")
def mixed(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """German, English, French, Spanish and English, with changes inside of chunks."""
    clips = speech / "clips"
    return join(
        tmp_path_factory.mktemp("audio") / "mixed.wav",
        read(clips / "aeneas_de.mp3", 0.0, 12.0),
        read(speech / "long" / "long_single_reader.mp3", 0.0, 40.0),
        read(clips / "leopard_test_fr.wav"),
        read(clips / "leopard_test_es.wav"),
        read(speech / "long" / "long_single_reader.mp3", 40.0, 70.0),
    )


@pytest.fixture(scope="module")
def undisturbed(model: Model, mixed: Path) -> list[Chunk]:
    return transcribe(model, task(mixed)).chunks()


def test_each_part_is_in_its_language(undisturbed: list[Chunk]) -> None:
    assert languages(undisturbed) == ["de", "en", "fr", "es", "en"]
    for words in ("abenteuerliche", "the art of making books"):
        assert words in text(undisturbed)
    assert [chunk.language for chunk in undisturbed] == [
        chunk.segments[-1].language for chunk in undisturbed
    ]


@pytest.mark.parametrize("done", [{0}, {0, 1}, {1, 3}, {2}, {4}])
def test_a_restart_gives_the_same_text_and_languages(
    model: Model, mixed: Path, undisturbed: list[Chunk], done: set[int]
) -> None:
    committed = [chunk for chunk in undisturbed if chunk.index in done]
    rest = task(
        mixed,
        language="de",
        skip=frozenset(done),
        said={chunk.index: chunk.text_in_language for chunk in committed},
        languages={chunk.index: chunk.language for chunk in committed},
    )
    again = transcribe(model, rest).chunks()
    assert again == [chunk for chunk in undisturbed if chunk.index not in done]


def test_a_replica_more_or_less_changes_nothing(
    model: Model, mixed: Path, undisturbed: list[Chunk]
) -> None:
    assert transcribe(model, task(mixed), replicas=1).chunks() == undisturbed


def test_german_and_then_english(model: Model, speech: Path) -> None:
    run = transcribe(model, task(speech / "odd" / "13_de20_then_en60.opus"))
    assert languages(run.chunks()) == ["de", "en"]
    assert "abenteuerliche Simplicissimus" in text(run.chunks())
    assert "the invention of the art of printing" in text(run.chunks())


def test_a_fixed_language_stays_fixed(model: Model, speech: Path) -> None:
    german = {"language": "de", "languages": ["en", "fr"]}
    run = transcribe(model, task(speech / "clips" / "jfk.flac", options=german))
    assert languages(run.chunks()) == ["de"]


@pytest.mark.parametrize(("allowed", "expected"), [(["de", "it"], "it"), (["es"], "es")])
def test_only_allowed_languages_are_found(
    model: Model, speech: Path, allowed: list[str], expected: str
) -> None:
    spoken = (
        speech / "clips" / ("leopard_test_it.wav" if len(allowed) > 1 else "leopard_test_pt.wav")
    )
    run = transcribe(model, task(spoken, options={"languages": allowed}))
    assert languages(run.chunks()) == [expected]
    [found] = run.of(LanguageFound)
    assert isinstance(found, LanguageFound)
    assert found.language == expected


def test_an_unknown_code_is_refused(model: Model, speech: Path) -> None:
    run = transcribe(
        model, task(speech / "clips" / "jfk.flac", options={"languages": ["en", "xx"]})
    )
    [failed] = run.of(TaskFailed)
    assert "'xx'" in str(failed)


def test_short_speech_keeps_the_language_of_its_neighbours(
    model: Model, speech: Path, tmp_path: Path
) -> None:
    """A short clip far from other speech is a chunk of its own: alone it says little."""
    clips = speech / "clips"
    gap = np.zeros((1, 7 * SAMPLE_RATE), np.float32)
    word = read(clips / "leopard_test_de.wav", 0.0, 1.2)
    path = join(tmp_path / "short.wav", read(clips / "aeneas_de.mp3", 0.0, 15.0), gap, word, gap)
    assert languages(transcribe(model, task(path)).chunks()) == ["de"]
