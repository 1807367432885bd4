"""Decodes the encoder's output of clips to tokens, with CTranslate2 or the packed decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ctranslate2 import DataType, Device, StorageView
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from speakeasyd.engine.audio import Samples

Encoded = Sequence[StorageView]
"""The encoder's output, each of shape (clips, frames / 2, width): one for each clip on a CPU, one for all on a GPU."""

MAX_TOKENS = 448  # tokens of prompt and text: the limit of Whisper
MAX_TEXT = MAX_TOKENS // 2  # tokens of text: the limit of CTranslate2


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


class TextDecoder(Protocol):
    """Thread-safe. The text of a clip does not depend on the other clips."""

    @property
    def description(self) -> str:
        """Its name, and what a person should know about the choice."""

    @property
    def takes_any_length(self) -> bool:
        """Whether windows and prompts of different lengths can share a call."""

    def decode_text(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Return the text of each clip, as tokens. `prompts`: tokens; all write timestamps, or none does."""


class CTranslate2TextDecoder:
    """See `TextDecoder`."""

    takes_any_length = False

    def __init__(self, model: Any, tokenizer: Tokenizer, reason: str = "") -> None:
        """`reason`: why it is not the packed decoder."""
        self._model = model
        self.description = f"CTranslate2, since {reason}" if reason else "CTranslate2"
        self.suppressed = list(get_suppressed_tokens(tokenizer, [-1]))
        """Tokens that are never written."""

    def decode_text(
        self, encoded: Encoded, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Raises RuntimeError, as CTranslate2 does."""
        results = self._model.generate(
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


def split_states(encoded: Encoded) -> list[Samples]:
    """Return the encoder's output of each clip in host memory, shape (1, frames / 2, width), float32."""
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


def _join_encoded(encoded: Encoded) -> StorageView:
    return (
        encoded[0]
        if len(encoded) == 1
        else StorageView.from_array(np.concatenate(list(map(np.asarray, encoded))))
    )
