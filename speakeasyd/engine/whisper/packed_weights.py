"""The weights of a Whisper model in the layout of the packed network."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from speakeasyd.engine.whisper.packed_library import (
    DecoderWeights,
    EncoderWeights,
    Layer,
    Linear,
    Norm,
    Unsupported,
)
from speakeasyd.engine.whisper.weights_file import Weights

HEAD = 64  # width of an attention head
POSITIONS = 448  # tokens of prompt and text
STATES = 1500  # of a window of 30 s
_TAPS = 3  # frames that a convolution takes
_WIDEST = 1280  # of all models; the sums of a wider convolution need not fit into 32 bits
_MULTIPLE = 16  # of the outputs of a linear layer, padded, and of mels
_TYPES: dict[Any, int] = {np.int8: 0, np.float16: 1, np.float32: 2}  # as in layers.h
_REQUIRED = {  # of every Whisper model
    "activation": 3,  # GELU
    "alibi": 0,
    "pre_norm": 1,
    "scale_embeddings": 0,
    "start_from_zero_embedding": 0,
}
_EMBEDDINGS = "decoder/embeddings"


def pack_encoder(library: ctypes.CDLL, weights: Weights) -> EncoderWeights:
    """Raises Unsupported for a model that is no plain Whisper model."""
    with _require_plain_model("encoder", weights):
        return _Packer(library, weights).build_encoder()


def pack_decoder(library: ctypes.CDLL, weights: Weights) -> DecoderWeights:
    """Raises Unsupported for a model that is no plain Whisper model."""
    if weights.get("decoder/projection/weight") is not weights.get(f"{_EMBEDDINGS}/weight"):
        raise Unsupported("the model's output layer has weights of its own")
    with _require_plain_model("decoder", weights):
        return _Packer(library, weights).build_decoder()


@contextmanager
def _require_plain_model(part: str, weights: Weights) -> Iterator[None]:
    """Raises Unsupported, also for variables that are missing or have another shape inside."""
    try:
        for name, value in _REQUIRED.items():
            if (found := weights.get(f"{part}/{name}", value)) != value:
                raise Unsupported(f"{part}/{name} of the model is {found}")
        yield
    except KeyError as error:
        raise Unsupported(f"the model has no {error}") from error
    except (TypeError, ValueError) as error:
        raise Unsupported(f"a variable of the model has a wrong shape: {error}") from error


class _Packer:
    def __init__(self, library: ctypes.CDLL, weights: Weights) -> None:
        self._library, self._weights = library, weights
        self._arrays: list[npt.NDArray[Any]] = []

    def build_encoder(self) -> EncoderWeights:
        width, mels, _ = self._weights["encoder/conv1/weight"].shape
        if mels % _MULTIPLE or max(mels, width) > _WIDEST:
            raise Unsupported(f"the model takes {mels} mels and is {width} wide")
        layers, hidden = self._build_layers("encoder", width)
        encoder = EncoderWeights(
            conv1=self._pack_convolution("encoder/conv1", width, mels),
            conv2=self._pack_convolution("encoder/conv2", width, width),
            norm=self._build_norm("encoder/layer_norm", width),
            positions=self._keep_floats("encoder/position_encodings/encodings", STATES, width),
            layers=layers,
            layer_count=len(layers),
            width=width,
            hidden=hidden,
            mels=mels,
        )
        encoder.arrays = self._arrays
        return encoder

    def build_decoder(self) -> DecoderWeights:
        tokens, width = self._weights[f"{_EMBEDDINGS}/weight"].shape
        layers, hidden = self._build_layers("decoder", width)
        decoder = DecoderWeights(
            layers=layers,
            vocabulary=self._pack_linear(_EMBEDDINGS, tokens, width),
            norm=self._build_norm("decoder/layer_norm", width),
            positions=self._keep_floats("decoder/position_encodings/encodings", POSITIONS, width),
            layer_count=len(layers),
            width=width,
            hidden=hidden,
            tokens=tokens,
        )
        decoder.arrays = self._arrays
        return decoder

    def _build_layers(self, part: str, width: int) -> tuple[ctypes.Array[Layer], int]:
        """Return the layers and the width between the two linear layers at the end of each."""
        if width != int(self._weights[f"{part}/num_heads"]) * HEAD:
            raise Unsupported(f"the model's attention heads are not {HEAD} wide")
        hidden = len(self._weights[f"{part}/layer_0/ffn/linear_0/weight"])
        if hidden % HEAD:
            raise Unsupported(f"the model's hidden layer is {hidden} wide")
        names = takewhile(
            lambda name: f"{name}/ffn/linear_0/weight" in self._weights,
            (f"{part}/layer_{number}" for number in count()),
        )
        layers = [self._build_layer(name, width, hidden) for name in names]
        return (Layer * len(layers))(*layers), hidden

    def _build_layer(self, name: str, width: int, hidden: int) -> Layer:
        layer = Layer(
            self_norm=self._build_norm(f"{name}/self_attention/layer_norm", width),
            self_in=self._pack_linear(f"{name}/self_attention/linear_0", 3 * width, width),
            self_out=self._pack_linear(f"{name}/self_attention/linear_1", width, width),
            hidden_norm=self._build_norm(f"{name}/ffn/layer_norm", width),
            hidden_in=self._pack_linear(f"{name}/ffn/linear_0", hidden, width),
            hidden_out=self._pack_linear(f"{name}/ffn/linear_1", width, hidden),
        )
        if name.startswith("decoder/"):
            layer.cross_norm = self._build_norm(f"{name}/attention/layer_norm", width)
            layer.cross_query = self._pack_linear(f"{name}/attention/linear_0", width, width)
            layer.cross_in = self._pack_linear(f"{name}/attention/linear_1", 2 * width, width)
            layer.cross_out = self._pack_linear(f"{name}/attention/linear_2", width, width)
        return layer

    def _build_norm(self, name: str, width: int) -> Norm:
        return Norm(
            gamma=self._keep_floats(f"{name}/gamma", width),
            beta=self._keep_floats(f"{name}/beta", width),
        )

    def _pack_linear(self, name: str, outputs: int, inputs: int) -> Linear:
        weights = np.ascontiguousarray(self._get(f"{name}/weight", outputs, inputs))
        return self._pack(name, weights, size=1)

    def _pack_convolution(self, name: str, outputs: int, channels: int) -> Linear:
        weights = self._get(f"{name}/weight", outputs, channels, _TAPS)
        _require_type(weights)
        by_frame = weights.transpose(0, 2, 1).reshape(outputs, -1).astype(np.float32)
        if weights.dtype == np.int8:
            by_frame /= self._get(f"{name}/weight_scale", outputs)[:, np.newaxis]
        return self._pack(name, by_frame, size=2)

    def _pack(self, name: str, weights: npt.NDArray[Any], *, size: int) -> Linear:
        """`size`: bytes of a packed weight."""
        kind = _require_type(weights)
        outputs, inputs = weights.shape
        factors = np.empty(0, np.float32)
        if weights.dtype == np.int8:
            factors = np.ascontiguousarray(self._get(f"{name}/weight_scale", outputs), np.float32)
        padded = -(-outputs // _MULTIPLE) * _MULTIPLE
        bias = np.zeros(padded, np.float32)
        if f"{name}/bias" in self._weights:
            bias[:outputs] = self._get(f"{name}/bias", outputs)
        linear = Linear(
            weights=self._keep(np.empty(padded * inputs * size, np.int8)),
            scales=self._keep(np.empty(padded, np.float32)),
            weight_sums=self._keep(np.empty(padded, np.int32)),
            bias=self._keep(bias),
            outputs=padded,
            inputs=inputs,
            bytes=size,
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


def _require_type(weights: npt.NDArray[Any]) -> int:
    """Return the number of the type in C. Raises Unsupported."""
    if (kind := _TYPES.get(weights.dtype.type)) is None:
        raise Unsupported(f"the model's weights are {weights.dtype}")
    return kind
