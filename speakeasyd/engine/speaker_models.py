"""The two models of diarization: they are part of this package and are checked before they are loaded."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
import onnxruntime

from speakeasyd.engine.audio import Samples

SEGMENTATION, EMBEDDING = "segmentation-3.0.onnx", "campplus_zh_en.onnx"
_SHA256: Mapping[str, str] = {
    SEGMENTATION: "9bc4bddc611d198d7cd658a510fb9f3ff49f81a9452fef6a956d346357272bfa",
    EMBEDDING: "08ddbffc4e3f23774a487347feefce977655ea08d1f0743bdd207b6b05be0e0b",
}


class SpeakerModelDamaged(Exception):
    """A file of a model is missing or does not have the SHA-256 that it should have."""


class SpeakerModel:
    """One ONNX model with an input `x`. Thread-safe.

    It computes with one thread: with more, the last bits of the results differ from run to run.
    """

    def __init__(self, name: str) -> None:
        """Load the model. Raises SpeakerModelDamaged."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _read_model(name), options, providers=["CPUExecutionProvider"]
        )

    def run(self, values: Samples) -> Samples:
        output: Samples = np.asarray(self._session.run(None, {"x": values})[0], np.float32)
        return output


def _read_model(name: str) -> bytes:
    try:
        content = (files("speakeasyd") / "data" / "speakers" / name).read_bytes()
    except OSError as error:
        raise SpeakerModelDamaged(f"the speaker model {name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise SpeakerModelDamaged(f"the speaker model {name} has a wrong SHA-256")
    return content
