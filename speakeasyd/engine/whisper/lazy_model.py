"""A Whisper model whose weights are loaded into CTranslate2 when they are first needed."""

import json
import threading
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import ctranslate2
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import _LANGUAGE_CODES
from tokenizers import Tokenizer

from speakeasyd.domain.fault import Phase
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.recognizer import ModelUnavailable
from speakeasyd.engine.whisper.weights_file import UnknownFormat, read_weights

_MULTILINGUAL = 51865  # tokens: the smallest vocabulary with several languages, as in CTranslate2


class LazyModel:
    """Thread-safe. The packed network seldom needs CTranslate2, which takes as much memory again."""

    def __init__(self, folder: Path, device: str, compute_type: str, replicas: int = 1) -> None:
        """`device`: such as "cpu" or "cuda:1".

        Raises ModelUnavailable for a damaged configuration, and what the tokenizer raises.
        """
        _read_settings(folder / "config.json")  # CTranslate2 would find it damaged only later
        self.folder, self.compute_type = folder, compute_type
        self.device, _, self._index = device.partition(":")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        known = signature(FeatureExtractor).parameters
        features = _read_settings(folder / "preprocessor_config.json")
        self.feature_extractor = FeatureExtractor(
            **{k: features[k] for k in known & features.keys()}
        )
        self._replicas = replicas
        self._loading = threading.Lock()
        self._loaded: ctranslate2.models.Whisper | None = None

    @property
    def ctranslate2(self) -> ctranslate2.models.Whisper:
        """The model in CTranslate2. Raises EngineFault of phase load."""
        with self._loading, label_phase(Phase.LOAD):
            if self._loaded is None:
                self._loaded = ctranslate2.models.Whisper(
                    str(self.folder),
                    device=self.device,
                    device_index=int(self._index or 0),
                    compute_type=self.compute_type,
                    intra_threads=1,  # two threads generate text slower than one; replicas use the other cores
                    inter_threads=self._replicas,
                )
            return self._loaded

    @cached_property
    def multilingual(self) -> bool:
        try:
            vocabulary = read_weights(self.folder / "model.bin")["decoder/embeddings/weight"]
            return len(vocabulary) >= _MULTILINGUAL
        except (KeyError, UnknownFormat):
            return bool(self.ctranslate2.is_multilingual)

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages that the model knows."""
        return frozenset(_LANGUAGE_CODES if self.multilingual else ["en"])


def _read_settings(file: Path) -> dict[str, Any]:
    """Return the settings in a file, which a model need not have. Raises ModelUnavailable."""
    try:
        return dict(json.loads(file.read_bytes())) if file.exists() else {}
    except ValueError as error:
        raise ModelUnavailable(f"{file} is damaged: {error}") from error
