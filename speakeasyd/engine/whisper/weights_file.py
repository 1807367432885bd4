"""Reads the weights of a model in CTranslate2's format.

The format, from CTranslate2's serialization (`python/ctranslate2/specs/model_spec.py`): version,
name and revision of the model's kind; the variables, each with name, shape, type and data; aliases.
"""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Weights = dict[str, npt.NDArray[np.generic]]

_VERSION = 6
_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # by CTranslate2's number


class UnknownFormat(Exception):
    """The file is not in the format that is known here."""


def read_weights(file: Path) -> Weights:
    """Map the variables of a `model.bin` into memory, by name. Raises UnknownFormat and OSError."""
    try:
        data = memoryview(np.memmap(file, np.uint8, "r"))  # type: ignore[arg-type]
        return _Reader(data).read_variables()
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise UnknownFormat(f"{file}: {error}") from error


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def read_variables(self) -> Weights:
        if (version := self._take("I")) != _VERSION:
            raise ValueError(f"version {version}")
        self._take_text()  # the model's kind
        self._take("I")  # its revision
        weights = dict(self._take_variable() for _ in range(self._take("I")))
        for _ in range(self._take("I")):
            alias = self._take_text()
            weights[alias] = weights[self._take_text()]
        return weights

    def _take_variable(self) -> tuple[str, npt.NDArray[np.generic]]:
        name = self._take_text()
        shape = [self._take("I") for _ in range(self._take("B"))]
        dtype = np.dtype(_TYPES[self._take("B")])
        size = self._take("I")
        values = np.frombuffer(self._data, dtype, size // dtype.itemsize, self._at)
        self._at += size
        return name, values.reshape(shape)

    def _take_text(self) -> str:
        length = self._take("H")  # with a zero at the end
        text = bytes(self._data[self._at : self._at + length - 1]).decode()
        self._at += length
        return text

    def _take(self, kind: str) -> int:
        number: int
        (number,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(f"<{kind}")
        return number
