"""The ONNX models that are part of this package; each is checked before it is loaded."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import onnxruntime

from speakeasyd.engine.audio import Samples

VOICE_DETECTION = "voice_detection/silero_vad_v6.onnx"
SEGMENTATION = "speakers/segmentation-3.0.onnx"
EMBEDDING = "speakers/campplus_zh_en.onnx"
_SHA256: Mapping[str, str] = {
    VOICE_DETECTION: "a971758f0a90815f10f031524ba6874e32ad9e776998b76dab3884bd9c6fee56",
    SEGMENTATION: "9bc4bddc611d198d7cd658a510fb9f3ff49f81a9452fef6a956d346357272bfa",
    EMBEDDING: "08ddbffc4e3f23774a487347feefce977655ea08d1f0743bdd207b6b05be0e0b",
}


class OnnxModelDamaged(Exception):
    """A file of a model is missing or does not have the SHA-256 that it should have."""


class OnnxModel:
    """One of the models. Thread-safe.

    It computes with one thread: with more, the last bits of the results differ from run to run.
    """

    def __init__(self, name: str) -> None:
        """Load the model. Raises OnnxModelDamaged."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            _read_model(name), options, providers=["CPUExecutionProvider"]
        )

    def run(self, **inputs: Samples) -> list[Samples]:
        """Return the graph's outputs. `inputs`: by name. Raises what ONNX Runtime raises."""
        outputs: list[Samples] = self._session.run(None, inputs)
        return outputs


def _read_model(name: str) -> bytes:
    try:
        content = (files("speakeasyd") / "data" / name).read_bytes()
    except OSError as error:
        raise OnnxModelDamaged(f"the model {name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[name]:
        raise OnnxModelDamaged(f"the model {name} has a wrong SHA-256")
    return content
