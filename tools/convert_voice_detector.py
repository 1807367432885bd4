"""Converts the Silero model of voice activity detection to `speakeasyd/data/voice_detection`.

    python tools/convert_voice_detector.py OUT

Needs onnx and faster-whisper 1.2, which contains the model. ONNX Runtime computes a convolution for
each window alone; here each is one matrix product over the frames of all windows, and only frames
that are used are computed. The weights are the same. The SHA-256 of the result, which may depend on
the version of onnx (this was 1.23), is in `speakeasyd/engine/onnx_models.py`.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"  # of the source
STATE = [1, 1, 128]
BINS = 129


def main(out: Path) -> None:
    spec = importlib.util.find_spec("faster_whisper")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "assets" / "silero_vad_v6.onnx"
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{source} is another version")
    out.mkdir(parents=True, exist_ok=True)
    model = ModelBuilder(onnx.load(source)).build()
    onnx.checker.check_model(model, full_check=True)
    path = out / source.name
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


class ModelBuilder:
    """Builds the graph. Each method returns the name of its result."""

    def __init__(self, source: onnx.ModelProto) -> None:
        self._weights = {one.name: numpy_helper.to_array(one) for one in source.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        x = self.reshape(self.encode_windows(self.compute_magnitudes("input")), -1, *STATE[1:])
        weights = [self.add_constant(self._weights[f"onnx::LSTM_{n}"]) for n in (209, 210, 211)]
        inputs, outputs = [x, *weights, "", "h", "c"], ["recurrent", "hn", "cn"]
        self._nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=STATE[-1]))
        x = self.add_node("Relu", self.reshape("recurrent", -1, STATE[-1]))
        x = self.multiply(
            x, self._weights["decoder.conv1d.weight"][0], self._weights["decoder.conv1d.bias"]
        )
        self.reshape(self.add_node("Sigmoid", x), -1, name="speech_probs")
        shapes = {"input": ["windows", 576], "h": STATE, "c": STATE}
        results = {"speech_probs": ["windows"], "hn": STATE, "cn": STATE}
        graph = helper.make_graph(
            self._nodes,
            "silero_vad_v6",
            *(
                [
                    helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                    for name, shape in described.items()
                ]
                for described in (shapes, results)
            ),
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def compute_magnitudes(self, windows: str) -> str:
        """Return spectra [windows][4][129] of frames of 256 samples, 128 apart."""
        padded = self.add_node("Pad", windows, np.array([0, 0, 0, 64]), mode="reflect")
        halves = self.reshape(padded, -1, 5, 128)
        frames = self.add_node("Concat", self.cut(halves, 0, 4), self.cut(halves, 1, 5), axis=2)
        basis = self._weights["encoder.feature_extractor.forward_basis_buffer"][:, 0]
        spectra = self.multiply(self.reshape(frames, -1, 256), basis.T)
        squares = [
            self.add_node("Mul", part, part)
            for part in (self.cut(spectra, 0, BINS), self.cut(spectra, BINS, 2 * BINS))
        ]
        return self.reshape(self.add_node("Sqrt", self.add_node("Add", *squares)), -1, 4, BINS)

    def encode_windows(self, magnitudes: str) -> str:
        """Apply the four convolutions, of three frames each, to spectra; returns [windows][128].

        The second and the third go two frames on. The first frame of the third, and the first and
        the last of the fourth, are padding, which needs no products.
        """
        x = self.add_node("Pad", magnitudes, np.array([0, 1, 0, 0, 1, 0]))
        x = self.add_node("Concat", *(self.cut(x, tap, tap + 4) for tap in range(3)), axis=2)
        x = self.reshape(self.convolve(self.reshape(x, -1, 3 * BINS), 0), -1, 4, 128)
        x = self.add_node("Pad", x, np.array([0, 1, 0, 0, 0, 0]))
        x = self.add_node(
            "Concat", *(self.cut(x, tap, tap + 3, step=2) for tap in range(3)), axis=2
        )
        x = self.convolve(self.reshape(x, -1, 3 * 128), 1)
        x = self.convolve(self.reshape(x, -1, 2 * 64), 2, slice(1, 3))
        return self.convolve(x, 3, slice(1, 2))

    def convolve(self, rows: str, layer: int, taps: slice = slice(0, 3)) -> str:
        """`rows`: the frames of each result, one after another; `taps`: those that they are for."""
        name = f"encoder.conv_layers.{layer}"
        weights = self._weights[f"{name}.weight"][:, :, taps].transpose(2, 1, 0)
        weights = weights.reshape(-1, weights.shape[-1])
        return self.add_node("Relu", self.multiply(rows, weights, self._weights[f"{name}.bias"]))

    def multiply(self, rows: str, weights: Any, *bias: Any) -> str:
        return self.add_node("Gemm", rows, weights, *bias)

    def cut(self, x: str, start: int, end: int, step: int = 1) -> str:
        """Cut the second axis."""
        return self.add_node("Slice", x, *(np.array([value]) for value in (start, end, 1, step)))

    def reshape(self, x: str, *shape: int, name: str = "") -> str:
        return self.add_node("Reshape", x, np.array(shape), name=name)

    def add_node(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Inputs are names or constants."""
        names = [one if isinstance(one, str) else self.add_constant(one) for one in inputs]
        name = name or f"{kind} {len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def add_constant(self, values: Any) -> str:
        name = f"constant {len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
