"""The network of a Whisper model, by CTranslate2: encodes windows, rates languages, decodes tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ctranslate2 import DataType, Device, StorageView
from faster_whisper.transcribe import get_suppressed_tokens

from speakeasyd.domain.recognition import LanguageProbabilities
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.whisper.lazy_model import LazyModel

EncoderOutput = Sequence[StorageView]
"""Each of shape (clips, frames / 2, width): one for each clip on a CPU, one for all on a GPU."""

MAX_TOKENS = 448  # tokens of prompt and text: the limit of Whisper
MAX_TEXT = MAX_TOKENS // 2  # tokens of text: the limit of CTranslate2
MAX_PROMPT = 223  # tokens before those of language and task


@dataclass(frozen=True, slots=True)
class CallRules:
    """How clips are prepared for a call of the model."""

    windows_s: Sequence[int]  # seconds: the encoder's windows besides the full one
    contexts: Sequence[int]  # tokens of the text before
    timestamps: bool  # the decoder writes them; else words are aligned with the audio
    equal_lengths: bool = True  # clips share a call only if windows and prompts are equally long


CALL_RULES: Mapping[str, CallRules] = {
    # In windows of less than 10 s, the model hallucinates
    "cpu": CallRules(range(10, 30), range(0, MAX_PROMPT, 16), timestamps=True),
    # A step of the decoder takes as long for 16 clips as for one, if it need not apply the rules
    # for timestamps, which CTranslate2 does row by row (docs/performance.md)
    "cuda": CallRules((10, 15, 20, 25), (0, 64, 128, 192), timestamps=False),
}
"""Those of CTranslate2, by kind of device."""


@dataclass(frozen=True, slots=True)
class DecodingMethod:
    """The settings of one deterministic decoding (beam search)."""

    beam_size: int = 5
    patience: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    full_window: bool = False
    prompted: bool = True

    @property
    def search(self) -> tuple[int, float, float, int]:
        """The parameters of the beam search, besides window and prompt."""
        return self.beam_size, self.patience, self.repetition_penalty, self.no_repeat_ngram_size

    @property
    def penalizes_repetitions(self) -> bool:
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram_size > 0


@dataclass(frozen=True, slots=True)
class TokenText:
    """The most probable text that a search found."""

    tokens: tuple[int, ...]
    score: float  # mean log probability of a token
    no_speech_prob: float


class Network(Protocol):
    """Thread-safe. What it computes for a clip does not depend on the other clips."""

    @property
    def description(self) -> str:
        """Its name, and what a person should know about the choice."""

    @property
    def rules(self) -> CallRules: ...

    def encode_windows(self, windows: Sequence[Samples]) -> EncoderOutput:
        """Raises RuntimeError, MemoryError, and ValueError for a shape that the model cannot take.

        `windows`: log-mel spectra, each of shape (mels, frames), with up to 3000 frames, an even
        number.
        """

    def rate_languages(self, states: Samples) -> LanguageProbabilities:
        """Return each language's probability. Raises RuntimeError and MemoryError.

        `states`: of the encoder, shape (1, n, width), at least one. The model is multilingual.
        """

    def decode_text(
        self, encoded: EncoderOutput, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Return the text of each clip. Raises RuntimeError and MemoryError.

        `prompts`: the tokens for each clip; all ask for timestamps, or none does.
        """


class CTranslate2Network:
    """See `Network`."""

    def __init__(self, model: LazyModel) -> None:
        self._model = model
        self.rules = CALL_RULES[model.device]
        self.description = "CTranslate2"
        self.tokenizer = model.create_tokenizer("en")
        self.suppressed = list(get_suppressed_tokens(self.tokenizer, [-1]))
        """Tokens that are never written."""

    def encode_windows(self, windows: Sequence[Samples]) -> EncoderOutput:
        """Raises RuntimeError, as CTranslate2 does."""
        features = arrange_clips([window[np.newaxis] for window in windows], self._model.device)
        return list(map(self._model.ctranslate2.encode, features))

    def rate_languages(self, states: Samples) -> LanguageProbabilities:
        """Raises RuntimeError, as CTranslate2 does."""
        [found] = self._model.ctranslate2.detect_language(
            StorageView.from_array(np.ascontiguousarray(states))
        )
        return {token[2:-2]: probability for token, probability in found}

    def decode_text(
        self, encoded: EncoderOutput, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Raises RuntimeError, as CTranslate2 does."""
        results = self._model.ctranslate2.generate(
            _join_encoded(encoded),
            list(map(list, prompts)),
            beam_size=method.beam_size,
            patience=method.patience,
            repetition_penalty=method.repetition_penalty,
            no_repeat_ngram_size=method.no_repeat_ngram_size,
            max_length=MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
            suppress_tokens=self.suppressed,
        )
        return [
            TokenText(tuple(result.sequences_ids[0]), result.scores[0], result.no_speech_prob)
            for result in results
        ]


def arrange_clips(arrays: Sequence[Samples], device: str) -> Sequence[StorageView]:
    """Return arrays of clips, each of shape (1, ...), as CTranslate2 takes them.

    On a GPU that is one array for all. On a CPU each stays as it is: the data of several clips
    does not fit the cache. CTranslate2 copies to the device (`WhisperReplica::maybe_encode`).
    """
    arranged = arrays if device == "cpu" else [np.concatenate(arrays)]
    return list(map(StorageView.from_array, arranged))


def split_encoder_output(encoded: EncoderOutput) -> list[Samples]:
    """Return the output for each clip in host memory, shape (1, frames / 2, width), float32."""
    return [
        states[number : number + 1]
        for states in map(_copy_to_host, encoded)
        for number in range(len(states))
    ]


def _copy_to_host(encoded: StorageView) -> Samples:
    if encoded.device != "cpu":
        encoded = encoded.to(DataType.float32).to_device(Device.cpu)
    states: Samples = np.asarray(encoded)
    return states


def _join_encoded(encoded: EncoderOutput) -> StorageView:
    return (
        encoded[0]
        if len(encoded) == 1
        else StorageView.from_array(np.concatenate(list(map(np.asarray, encoded))))
    )
