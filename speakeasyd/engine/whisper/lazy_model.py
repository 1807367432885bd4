"""A Whisper model that CTranslate2 loads when it is first needed.

The packed network needs it for word timestamps and the last fallback only, and it takes as much
memory again.
"""

import json
import threading
from collections.abc import Callable
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import ctranslate2
import tokenizers
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer

from speakeasyd.engine import heap_retention
from speakeasyd.engine.recognizer import ModelUnavailable
from speakeasyd.engine.whisper.weights_file import UnknownFormat, read_weights

_MULTILINGUAL = 51865  # tokens: the smallest vocabulary with several languages, as in CTranslate2


class LazyModel:
    """A model's tokens, features and languages, and the model in CTranslate2. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        device: str,
        compute_type: str,
        replicas: int = 1,
        on_load: Callable[[], object] = lambda: None,
    ) -> None:
        """`device`: such as "cpu" or "cuda:1". `on_load`: called before CTranslate2 loads the model.

        Raises ModelUnavailable for a damaged configuration, and what the tokenizer raises.
        """
        _read_settings(folder / "config.json")  # CTranslate2 would find it damaged only later
        self.folder, self.compute_type = folder, compute_type
        self.device, _, self._index = device.partition(":")
        self._hf_tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        known = signature(FeatureExtractor).parameters
        features = _read_settings(folder / "preprocessor_config.json").items()
        self.feature_extractor = FeatureExtractor(**{k: v for k, v in features if k in known})
        self._replicas, self._on_load = replicas, on_load
        self._version = self._read_version()
        self._loading = threading.Lock()
        self._loaded: ctranslate2.models.Whisper | None = None

    @property
    def ctranslate2(self) -> ctranslate2.models.Whisper:
        """The model in CTranslate2. Raises RuntimeError, OSError, and MemoryError.

        Other weights than before are refused: the packed network goes on with the old ones.
        """
        with self._loading:
            if self._loaded is None:
                self._on_load()
                if self._read_version() != self._version:
                    raise RuntimeError(f"the model {self.folder} has changed since it was loaded")
                self._loaded = ctranslate2.models.Whisper(
                    str(self.folder),
                    device=self.device,
                    device_index=int(self._index or 0),
                    compute_type=self.compute_type,
                    intra_threads=1,  # two threads generate text slower than one; replicas use the other cores
                    inter_threads=self._replicas,
                )
                heap_retention.retain_freed_pages()  # and return those that loading has freed
            return self._loaded

    @cached_property
    def multilingual(self) -> bool:
        """Whether it knows several languages, by the size of its vocabulary."""
        try:
            vocabulary = read_weights(self.folder / "model.bin")["decoder/embeddings/weight"]
            return len(vocabulary) >= _MULTILINGUAL
        except (KeyError, UnknownFormat):
            return bool(self.ctranslate2.is_multilingual)

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages that the model knows."""
        return frozenset(_LANGUAGE_CODES if self.multilingual else ["en"])

    def create_tokenizer(self, language: str, task: str = "transcribe") -> Tokenizer:
        return Tokenizer(self._hf_tokenizer, self.multilingual, task=task, language=language)

    def _read_version(self) -> tuple[int, int, int]:
        """Return what differs if the weights are replaced. Raises OSError."""
        state = (self.folder / "model.bin").stat()
        return state.st_ino, state.st_size, state.st_mtime_ns


def _read_settings(file: Path) -> dict[str, Any]:
    """Return the settings in a file, which a model need not have. Raises ModelUnavailable."""
    try:
        return dict(json.loads(file.read_bytes())) if file.exists() else {}
    except (TypeError, ValueError) as error:  # the latter for what is no JSON
        raise ModelUnavailable(f"{file} is damaged: {error}") from error
