"""Repetitions that the model invents are removed; repeated speech is kept."""

from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.model import Model, load_model
from tests.integration.test_engine import (
    build_task,
    join_text,
    read_samples,
    transcribe_file,
    write_wav,
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    state = str(tmp_path_factory.mktemp("state"))
    return load_model("bundled", WorkerSpec("cpu", "auto", 1, 0, state, offline=True))


def test_a_sentence_is_not_repeated(model: Model, speech: Path) -> None:
    """With its fitted window, the bundled model writes this sentence twice."""
    run = transcribe_file(model, build_task(speech / "clips" / "tinygrad1.wav"), replicas=1)
    assert join_text(run.build_chunks()) == "Could you please let me out of the box?"


@pytest.mark.parametrize("accuracy", ["balanced", "exact"])
def test_a_sentence_spoken_twice_is_written_twice(
    model: Model, tmp_path: Path, accuracy: str
) -> None:
    sound = read_samples("voice_memo")
    pause = np.zeros((1, SAMPLE_RATE // 2), np.float32)
    path = write_wav(tmp_path / "twice.wav", np.concatenate([sound, pause, sound], axis=1))
    run = transcribe_file(model, build_task(path, options={"accuracy": accuracy}), replicas=1)
    text = join_text(run.build_chunks())
    assert (text.count("dentist"), text.count("yellow book")) == (2, 2)
