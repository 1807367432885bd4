"""The decoder of `packed_decoder.c`: int8 weights that are packed once, for CPUs with AVX2 or AVX-512.

CTranslate2 packs the weights again in every step. There, a call takes clips of the same window and
with prompts of the same length; here, of any.
"""

import ctypes
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_whisper.tokenizer import Tokenizer

from speakeasyd.engine.whisper.text_decoding import (
    MAX_TEXT,
    MAX_TOKENS,
    CTranslate2TextDecoder,
    DecodingMethod,
    Encoded,
    TokenText,
    split_states,
)
from speakeasyd.engine.whisper.weights_file import UnknownFormat, Weights, read_weights

_SOURCE = Path(__file__).with_name("packed_decoder.c")
_LIBRARIES = {"AVX-512": "packed_decoder_avx512.so", "AVX2": "packed_decoder_avx2.so"}
"""By instructions, the fastest first."""
_LATEST_FIRST = 50  # timestamps after the first one with which a text may begin: 1 s
_HEAD = 64  # width of an attention head
_PAD = 16  # outputs of a product: padded to a multiple
_TYPES: dict[Any, int] = {np.int8: 0, np.float16: 1, np.float32: 2}
_PLAIN = {  # of the decoder, as all Whisper models have it
    "decoder/activation": 3,  # GELU
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
_NORMS = {"self_norm": "self_attention", "cross_norm": "attention", "hidden_norm": "ffn"}
_LINEARS = {
    "self_in": "self_attention/linear_0",
    "self_out": "self_attention/linear_1",
    "cross_query": "attention/linear_0",
    "cross_in": "attention/linear_1",
    "cross_out": "attention/linear_2",
    "hidden_in": "ffn/linear_0",
    "hidden_out": "ffn/linear_1",
}
Tokens = npt.NDArray[np.int32]


class _Linear(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "factors", "sums", "bias")),
        *((name, ctypes.c_int32) for name in ("outputs", "inputs")),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("gamma", ctypes.c_void_p), ("beta", ctypes.c_void_p))


class _Layer(ctypes.Structure):
    _fields_ = (*((name, _Norm) for name in _NORMS), *((name, _Linear) for name in _LINEARS))


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("vocabulary", _Linear),
        ("norm", _Norm),
        ("positions", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("layer_count", "width", "hidden", "tokens")),
    )


class _Search(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "beam_size",
                "candidates",
                "most_tokens",
                "end",
                "no_speech",
                "no_timestamps",
                "timestamps",
                "latest_first",
            )
        ),
        ("suppressed", ctypes.c_void_p),
        ("suppressed_first", ctypes.c_void_p),
        ("suppressed_count", ctypes.c_int32),
        ("suppressed_first_count", ctypes.c_int32),
    )


class _Clip(ctypes.Structure):
    _fields_ = (
        ("states", ctypes.c_void_p),
        ("prompt", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in ("state_count", "prompt_length", "start", "most_tokens")
        ),
        ("text", ctypes.c_void_p),
        ("length", ctypes.c_int32),
        ("score", ctypes.c_float),
        ("no_speech_probability", ctypes.c_float),
    )


class Unsupported(Exception):
    """The packed decoder cannot be used: the library, the processor or the model does not allow it."""


@cache
def load_library() -> tuple[str, ctypes.CDLL]:
    """Return the fastest instructions that this processor has, and their library. Raises Unsupported."""
    checksum = zlib.crc32(_SOURCE.read_bytes())
    reason = "the packed decoder was not compiled when speakeasyd was installed"
    for instructions, name in _LIBRARIES.items():
        with suppress(OSError):
            library = ctypes.CDLL(str(_SOURCE.with_name(name)))
            library.source.restype = ctypes.c_uint32
            if library.source() != checksum:
                reason = "the packed decoder was compiled from another version"
            elif not library.usable():
                reason = "the processor has no AVX2"
            else:
                return instructions, library
    raise Unsupported(reason)


class PackedWeights:
    """The decoder's weights, in the layout of the library."""

    def __init__(self, library: ctypes.CDLL, weights: Weights) -> None:
        """Pack the weights. Raises Unsupported for a model that is no plain Whisper model."""
        for name, value in _PLAIN.items():
            if (found := weights.get(name, value)) != value:
                raise Unsupported(f"{name} of the model is {found}")
        self._library, self._weights = library, weights
        self._kept: list[npt.NDArray[np.generic]] = []  # what the structures point to
        self._lanes = library.lanes()
        tokens, width = weights["decoder/embeddings/weight"].shape
        if width != int(weights["decoder/num_heads"]) * _HEAD:
            raise Unsupported(f"the model's attention heads are not {_HEAD} wide")
        prefixes = list(takewhile(self._has_layer, map("decoder/layer_{}/".format, count())))
        self._layers = (_Layer * len(prefixes))(*map(self._build_layer, prefixes))
        self.model = _Model(
            layers=self._layers,
            vocabulary=self._pack_linear("decoder/embeddings"),
            norm=self._build_norm("decoder/layer_norm"),
            positions=self._keep_floats(weights["decoder/position_encodings/encodings"]),
            layer_count=len(prefixes),
            width=width,
            hidden=self._layers[0].hidden_in.outputs,
            tokens=tokens,
        )
        self._weights = {}

    def _has_layer(self, prefix: str) -> bool:
        return f"{prefix}ffn/linear_0/weight" in self._weights

    def _build_layer(self, prefix: str) -> _Layer:
        return _Layer(
            **{field: self._build_norm(f"{prefix}{n}/layer_norm") for field, n in _NORMS.items()},
            **{field: self._pack_linear(f"{prefix}{name}") for field, name in _LINEARS.items()},
        )

    def _build_norm(self, name: str) -> _Norm:
        return _Norm(
            *(self._keep_floats(self._weights[f"{name}/{part}"]) for part in ("gamma", "beta"))
        )

    def _pack_linear(self, name: str) -> _Linear:
        weights = np.ascontiguousarray(self._weights[f"{name}/weight"])
        kind = _TYPES.get(weights.dtype.type)
        if kind is None:
            raise Unsupported(f"the model's weights are {weights.dtype}")
        scales = self._weights.get(f"{name}/weight_scale")
        bias = self._weights.get(f"{name}/bias", np.zeros(0, np.float32))
        outputs, inputs = weights.shape
        padded = -(-outputs // _PAD) * _PAD
        linear = _Linear(
            weights=self._keep(np.empty(padded * inputs, np.int8)),
            factors=self._keep(np.empty(padded, np.float32)),
            sums=self._keep(np.empty(padded, np.int32)),
            bias=self._keep_floats(np.pad(bias, (0, padded - len(bias)))),
            outputs=padded,
            inputs=inputs,
        )
        scaled = None if scales is None else np.ascontiguousarray(scales, np.float32)
        self._library.pack(
            ctypes.byref(linear),
            weights.ctypes.data_as(ctypes.c_void_p),
            kind,
            None if scaled is None else scaled.ctypes.data_as(ctypes.c_void_p),
            outputs,
        )
        return linear

    def _keep(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def _keep_floats(self, array: npt.NDArray[Any]) -> int:
        return self._keep(np.ascontiguousarray(array, np.float32))


class PackedTextDecoder:
    """See `TextDecoder`. A method that penalizes repetitions is left to CTranslate2."""

    takes_any_length = True

    def __init__(
        self, weights_file: Path, tokenizer: Tokenizer, other: CTranslate2TextDecoder
    ) -> None:
        """Pack the weights. `other`: of the same model. Raises Unsupported."""
        instructions, self._library = load_library()
        self.description = f"the packed decoder, with {instructions}"
        try:
            self._packed = PackedWeights(self._library, read_weights(weights_file))
        except (UnknownFormat, KeyError) as error:
            raise Unsupported(f"the model's format is not known: {error}") from error
        self._other = other
        self._start = int(tokenizer.sot)
        self._end = int(tokenizer.eot)
        self._no_timestamps = int(tokenizer.no_timestamps)
        self._suppressed = np.array(other.suppressed, np.int32)
        self._suppressed_first = np.array([*tokenizer.encode(" "), self._end], np.int32)

    def decode_text(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Raises MemoryError."""
        if method.penalizes_repetitions:
            return self._other.decode_text(encoded, prompts, method)
        states = [np.ascontiguousarray(clip[0], np.float32) for clip in split_states(encoded)]
        tokens = [np.array(prompt, np.int32) for prompt in prompts]
        texts = np.empty((len(prompts), MAX_TEXT), np.int32)
        clips = (_Clip * len(prompts))(*self._describe_clips(states, tokens, texts))
        search = self._build_search(method, timestamps=self._no_timestamps not in prompts[0])
        packed = ctypes.byref(self._packed.model)
        if self._library.decode(packed, ctypes.byref(search), clips, len(clips)):
            raise MemoryError("not enough memory to decode the text")
        return [
            TokenText(tuple(text[: clip.length].tolist()), clip.score, clip.no_speech_probability)
            for text, clip in zip(texts, clips, strict=True)
        ]

    def _describe_clips(
        self, states: Sequence[npt.NDArray[np.float32]], prompts: Sequence[Tokens], texts: Tokens
    ) -> Iterator[_Clip]:
        for of_clip, prompt, text in zip(states, prompts, texts, strict=True):
            yield _Clip(
                states=of_clip.ctypes.data,
                prompt=prompt.ctypes.data,
                state_count=len(of_clip),
                prompt_length=len(prompt),
                start=int(np.flatnonzero(prompt == self._start)[0]),
                most_tokens=min(MAX_TEXT, MAX_TOKENS + 1 - len(prompt)),
                text=text.ctypes.data,
            )

    def _build_search(self, method: DecodingMethod, *, timestamps: bool) -> _Search:
        return _Search(
            beam_size=method.beam_size,
            candidates=round(method.beam_size * method.patience),
            most_tokens=MAX_TEXT,
            end=self._end,
            no_speech=self._no_timestamps - 1,  # Whisper's order of tokens
            no_timestamps=self._no_timestamps,
            timestamps=timestamps,
            latest_first=self._no_timestamps + 1 + _LATEST_FIRST,
            suppressed=self._suppressed.ctypes.data,
            suppressed_first=self._suppressed_first.ctypes.data,
            suppressed_count=len(self._suppressed),
            suppressed_first_count=len(self._suppressed_first),
        )
