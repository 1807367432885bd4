"""The weights of a Whisper model's decoder in the layout of the packed decoder."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speakeasyd.engine.whisper.packed_library import (
    Layer,
    Linear,
    Model,
    Norm,
    Unsupported,
)
from speakeasyd.engine.whisper.weights_file import Weights

HEAD = 64  # width of an attention head
POSITIONS = 448  # tokens of prompt and text
_OUTPUT_MULTIPLE = 16
_TYPES: dict[Any, int] = {np.int8: 0, np.float16: 1, np.float32: 2}  # as in packed_decoder.c
_REQUIRED = {  # of every Whisper model
    "decoder/activation": 3,  # GELU
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
_EMBEDDINGS = "decoder/embeddings"


@dataclass(frozen=True, slots=True)
class PackedWeights:
    model: Model
    arrays: Sequence[npt.NDArray[Any]]  # what the model points to


def pack_weights(library: ctypes.CDLL, weights: Weights) -> PackedWeights:
    """Pack the decoder's weights. Raises Unsupported for a model that is no plain Whisper model."""
    for name, value in _REQUIRED.items():
        if (found := weights.get(name, value)) != value:
            raise Unsupported(f"{name} of the model is {found}")
    if weights.get("decoder/projection/weight") is not weights.get(f"{_EMBEDDINGS}/weight"):
        raise Unsupported("the model's output layer has weights of its own")
    try:
        return _Packer(library, weights).pack()
    except KeyError as error:
        raise Unsupported(f"the model has no {error}") from error


class _Packer:
    def __init__(self, library: ctypes.CDLL, weights: Weights) -> None:
        self._library, self._weights = library, weights
        self._arrays: list[npt.NDArray[Any]] = []

    def pack(self) -> PackedWeights:
        tokens, width = self._weights[f"{_EMBEDDINGS}/weight"].shape
        if width != int(self._weights["decoder/num_heads"]) * HEAD:
            raise Unsupported(f"the model's attention heads are not {HEAD} wide")
        hidden = len(self._weights["decoder/layer_0/ffn/linear_0/weight"])
        if hidden % HEAD:
            raise Unsupported(f"the model's hidden layer is {hidden} wide")
        count = 0
        while f"decoder/layer_{count}/ffn/linear_0/weight" in self._weights:
            count += 1
        layers = [
            self._build_layer(f"decoder/layer_{number}", width, hidden) for number in range(count)
        ]
        model = Model(
            layers=(Layer * count)(*layers),
            vocabulary=self._pack_linear(_EMBEDDINGS, tokens, width),
            norm=self._build_norm("decoder/layer_norm", width),
            positions=self._keep_floats("decoder/position_encodings/encodings", POSITIONS, width),
            layer_count=count,
            width=width,
            hidden=hidden,
            tokens=tokens,
        )
        return PackedWeights(model, self._arrays)

    def _build_layer(self, name: str, width: int, hidden: int) -> Layer:
        return Layer(
            self_norm=self._build_norm(f"{name}/self_attention/layer_norm", width),
            self_in=self._pack_linear(f"{name}/self_attention/linear_0", 3 * width, width),
            self_out=self._pack_linear(f"{name}/self_attention/linear_1", width, width),
            cross_norm=self._build_norm(f"{name}/attention/layer_norm", width),
            cross_query=self._pack_linear(f"{name}/attention/linear_0", width, width),
            cross_in=self._pack_linear(f"{name}/attention/linear_1", 2 * width, width),
            cross_out=self._pack_linear(f"{name}/attention/linear_2", width, width),
            hidden_norm=self._build_norm(f"{name}/ffn/layer_norm", width),
            hidden_in=self._pack_linear(f"{name}/ffn/linear_0", hidden, width),
            hidden_out=self._pack_linear(f"{name}/ffn/linear_1", width, hidden),
        )

    def _build_norm(self, name: str, width: int) -> Norm:
        return Norm(
            gamma=self._keep_floats(f"{name}/gamma", width),
            beta=self._keep_floats(f"{name}/beta", width),
        )

    def _pack_linear(self, name: str, outputs: int, inputs: int) -> Linear:
        weights = np.ascontiguousarray(self._get(f"{name}/weight", outputs, inputs))
        kind = _TYPES.get(weights.dtype.type)
        if kind is None:
            raise Unsupported(f"the model's weights are {weights.dtype}")
        factors = np.empty(0, np.float32)
        if weights.dtype == np.int8:
            factors = np.ascontiguousarray(self._get(f"{name}/weight_scale", outputs), np.float32)
        padded = -(-outputs // _OUTPUT_MULTIPLE) * _OUTPUT_MULTIPLE
        bias = np.zeros(padded, np.float32)
        if f"{name}/bias" in self._weights:
            bias[:outputs] = self._get(f"{name}/bias", outputs)
        linear = Linear(
            weights=self._keep(np.empty(padded * inputs, np.int8)),
            scales=self._keep(np.empty(padded, np.float32)),
            weight_sums=self._keep(np.empty(padded, np.int32)),
            bias=self._keep(bias),
            outputs=padded,
            inputs=inputs,
        )
        self._library.pack_weights(linear, weights.ctypes.data, kind, factors.ctypes.data, outputs)
        return linear

    def _get(self, name: str, *shape: int) -> npt.NDArray[Any]:
        array = self._weights[name]
        if array.shape != shape:
            raise Unsupported(f"{name} of the model has the shape {array.shape}")
        return array

    def _keep_floats(self, name: str, *shape: int) -> int:
        # A copy: the model's file is not needed, and may be replaced
        return self._keep(np.array(self._get(name, *shape), np.float32))

    def _keep(self, array: npt.NDArray[Any]) -> int:
        self._arrays.append(array)
        return int(array.ctypes.data)
