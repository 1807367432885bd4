"""The libraries that the sources in `packed/` are compiled to, and their structures.

The module imports the standard library alone: the installation uses it, too.
"""

import ctypes
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).with_name("packed")
LIBRARIES = {"AMX": "amx.so", "AVX-512": "avx512.so", "AVX2": "avx2.so"}
"""By instructions, the fastest first. The names are the same on Windows and macOS."""
NORMS = ("self_norm", "cross_norm", "hidden_norm")
LINEARS = (
    *("self_in", "self_out", "cross_query", "cross_in", "cross_out"),
    *("hidden_in", "hidden_out"),
)
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float


class Linear(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("weights", "scales", "weight_sums", "bias")),
        *((name, _INT) for name in ("outputs", "inputs", "bytes")),
    )


class Norm(ctypes.Structure):
    _fields_ = (("gamma", _POINTER), ("beta", _POINTER))


class Layer(ctypes.Structure):
    _fields_ = (*((name, Norm) for name in NORMS), *((name, Linear) for name in LINEARS))


class EncoderWeights(ctypes.Structure):
    """`Encoder` in C."""

    arrays: Sequence[object]  # to which it points
    _fields_ = (
        *((name, Linear) for name in ("conv1", "conv2")),
        ("norm", Norm),
        ("positions", _POINTER),
        ("layers", ctypes.POINTER(Layer)),
        *((name, _INT) for name in ("layer_count", "width", "hidden", "mels")),
    )


class DecoderWeights(ctypes.Structure):
    """`Decoder` in C."""

    arrays: Sequence[object]  # to which it points
    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("vocabulary", Linear),
        ("norm", Norm),
        ("positions", _POINTER),
        *((name, _INT) for name in ("layer_count", "width", "hidden", "tokens")),
    )


class Search(ctypes.Structure):
    _fields_ = (
        *((name, _INT) for name in ("beam_size", "max_finished", "capacity")),
        *((name, _INT) for name in ("end", "no_speech", "no_timestamps")),
        *((name, _INT) for name in ("has_timestamps", "latest_first")),
        *((name, _POINTER) for name in ("suppressed", "suppressed_first")),
        *((name, _INT) for name in ("suppressed_count", "suppressed_first_count")),
    )


class ClipCall(ctypes.Structure):
    """`Clip` in C."""

    _fields_ = (
        *((name, _POINTER) for name in ("states", "prompt")),
        *((name, _INT) for name in ("state_count", "prompt_length", "start", "max_tokens")),
        ("text", _POINTER),
        ("length", _INT),
        *((name, _FLOAT) for name in ("score", "no_speech_probability")),
    )


class Unsupported(Exception):
    """The packed network cannot be used: library, processor or model do not allow it."""


def compute_checksum(sources: Path) -> int:
    """Return the number that a library compiled from these sources has in it."""
    files = sorted(sources.glob("*.[ch]"))
    return zlib.crc32(b"".join(file.name.encode() + file.read_bytes() for file in files))


def load_library(
    sources: Path = SOURCES, libraries: Mapping[str, str] = LIBRARIES
) -> tuple[str, ctypes.CDLL]:
    """Return the fastest instructions that this processor has, and their library.

    Raises Unsupported. The libraries are in the folder of their `sources`.
    """
    checksum = compute_checksum(sources)
    reasons = []
    for instructions, name in libraries.items():
        try:
            library = ctypes.CDLL(str(sources / name))
            _declare_functions(library)
            is_current = library.get_source_checksum() == checksum
        except (OSError, AttributeError) as error:  # no library, or none of this program
            is_there = (sources / name).exists()
            reasons.append(f"damaged: {error}" if is_there else "not compiled at installation")
            continue
        if is_current and library.is_supported():
            return instructions, library
        reasons.append("no such processor" if is_current else "compiled from another version")
    found = "; ".join(map("{}: {}".format, libraries, reasons))
    raise Unsupported(f"the packed network cannot be used ({found})")


def _declare_functions(library: ctypes.CDLL) -> None:
    """Raises AttributeError if a function is missing."""
    library.get_source_checksum.restype = ctypes.c_uint32
    library.get_source_checksum.argtypes = library.is_supported.argtypes = ()
    library.pack_weights.restype = None
    library.pack_weights.argtypes = (ctypes.POINTER(Linear), _POINTER, _INT, _POINTER, _INT)
    library.rate_tokens.argtypes = (
        *(ctypes.POINTER(DecoderWeights), _POINTER),
        *(_INT, _INT, _INT, _INT, _POINTER),
    )
    library.encode_window.argtypes = (ctypes.POINTER(EncoderWeights), _POINTER, _INT, _POINTER)
    library.decode_clips.argtypes = (
        *(ctypes.POINTER(kind) for kind in (DecoderWeights, Search, ClipCall)),
        _INT,
    )
