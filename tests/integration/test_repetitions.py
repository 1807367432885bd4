"""What the model invents by repeating itself is not kept; what is said twice is."""

from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.model import Model, load_model
from tests.integration.test_engine import samples_of, task, text, transcribe, write_wav

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    state = str(tmp_path_factory.mktemp("state"))
    return load_model("bundled", WorkerSpec("cpu", "auto", 1, 0, state, offline=True))


def test_a_sentence_is_not_repeated(model: Model, speech: Path) -> None:
    """In the fitted window, the bundled model writes this sentence down twice."""
    run = transcribe(model, task(speech / "clips" / "tinygrad1.wav"), replicas=1)
    assert text(run.chunks()) == "Could you please let me out of the box?"


@pytest.mark.parametrize("accuracy", ["balanced", "exact"])
def test_a_sentence_said_twice_is_written_twice(
    model: Model, tmp_path: Path, accuracy: str
) -> None:
    sound = samples_of("voice_memo")
    pause = np.zeros((1, SAMPLE_RATE // 2), np.float32)
    path = write_wav(tmp_path / "twice.wav", np.concatenate([sound, pause, sound], axis=1))
    run = transcribe(model, task(path, options={"accuracy": accuracy}), replicas=1)
    told = text(run.chunks())
    assert (told.count("dentist"), told.count("yellow book")) == (2, 2)
