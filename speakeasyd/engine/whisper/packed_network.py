"""The network compiled from `packed/`: weights packed once, for CPUs with AVX2 or AVX-512.

CTranslate2 packs the weights again in every call of the encoder and every step of the decoder.
There, a call takes clips of the same window and with prompts of the same length; here, of any.
"""

import ctypes
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ctranslate2 import StorageView
from faster_whisper.tokenizer import Tokenizer

from speakeasyd.domain.recognition import LanguageProbabilities
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.whisper.network import (
    MAX_PROMPT,
    MAX_TEXT,
    MAX_TOKENS,
    CallRules,
    CTranslate2Network,
    DecodingMethod,
    EncoderOutput,
    TokenText,
    split_encoder_output,
)
from speakeasyd.engine.whisper.packed_library import (
    ClipCall,
    Search,
    Unsupported,
    load_library,
)
from speakeasyd.engine.whisper.packed_weights import STATES, pack_decoder, pack_encoder
from speakeasyd.engine.whisper.weights_file import UnknownFormat, Weights, read_weights

PACKED_RULES = CallRules(range(10, 30), range(MAX_PROMPT + 1), timestamps=True, equal_lengths=False)
_TIMESTAMPS = 1501  # 0 to 30 s; the last tokens of a model
_LATEST_FIRST = 50  # the timestamp of 1 s, the latest with which a text may begin
_Tokens = npt.NDArray[np.int32]


class PackedEncoder:
    """Thread-safe."""

    def __init__(self, library: ctypes.CDLL, weights: Weights) -> None:
        """Pack the weights. Raises Unsupported."""
        self._library, self._weights = library, pack_encoder(library, weights)

    def encode_window(self, window: Samples) -> Samples:
        """Return states, shape (1, frames / 2, width), float32. Raises MemoryError and ValueError.

        `window`: as for `Network.encode_windows`.
        """
        mels, frames_count = window.shape
        if mels != self._weights.mels or not 0 < frames_count <= 2 * STATES or frames_count % 2:
            raise ValueError(f"a window of shape {window.shape} does not fit the model")
        frames = np.ascontiguousarray(np.pad(window.T, ((2, 1), (0, 0))), np.float32)
        states = np.empty((1, frames_count // 2, self._weights.width), np.float32)
        pointers = frames.ctypes.data, states.shape[1], states.ctypes.data
        if self._library.encode_window(self._weights, *pointers):
            raise MemoryError("not enough memory to encode a window")
        return states


class PackedNetwork:
    """See `Network`. A method that penalizes repetitions is left to CTranslate2."""

    rules = PACKED_RULES

    def __init__(
        self,
        weights_file: Path,
        fallback: CTranslate2Network,
        library: tuple[str, ctypes.CDLL] | None = None,
    ) -> None:
        """Pack the weights. Raises Unsupported.

        `fallback`: of the same model. `library`: what `load_library` returns, if not given.
        """
        instructions, self._library = library or load_library()
        self.description = f"the packed Whisper network, with {instructions}"
        try:
            weights = read_weights(weights_file)
            self._decoder = pack_decoder(self._library, weights)
            self._encoder = PackedEncoder(self._library, weights)
        except UnknownFormat as error:
            raise Unsupported(f"the model's format is not known: {error}") from error
        self._fallback = fallback
        tokenizer = fallback.tokenizer
        if tokenizer.timestamp_begin + _TIMESTAMPS != self._decoder.tokens:
            raise Unsupported("the model's tokenizer has other tokens")
        self._start, self._end = int(tokenizer.sot), int(tokenizer.eot)
        self._no_speech, self._no_timestamps = tokenizer.no_speech, tokenizer.no_timestamps
        self._languages = _list_languages(tokenizer)
        self._suppressed = np.array(fallback.suppressed, np.int32)
        self._suppressed_first = np.array([*tokenizer.encode(" "), self._end], np.int32)

    def encode_windows(self, windows: Sequence[Samples]) -> EncoderOutput:
        """Raises MemoryError and ValueError."""
        return list(map(StorageView.from_array, map(self._encoder.encode_window, windows)))

    def rate_languages(self, states: Samples) -> LanguageProbabilities:
        """Raises MemoryError."""
        probabilities = self._rate_tokens(states, self._start + 1, len(self._languages))
        return dict(zip(self._languages, probabilities.tolist(), strict=True))

    def _rate_tokens(self, states: Samples, first: int, count: int) -> npt.NDArray[np.float32]:
        """Return the probability of each of `count` tokens, among them, to come first."""
        values = np.ascontiguousarray(states[0], np.float32)
        probabilities = np.empty(count, np.float32)
        window = values.ctypes.data, len(values), self._start
        tokens = first, count, probabilities.ctypes.data
        if self._library.rate_tokens(self._decoder, *window, *tokens):
            raise MemoryError("not enough memory to rate tokens")
        return probabilities

    def decode_text(
        self, encoded: EncoderOutput, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """Raises MemoryError, and RuntimeError from CTranslate2."""
        if method.penalizes_repetitions:
            return self._decode_separately(encoded, prompts, method)
        states = [np.ascontiguousarray(clip[0]) for clip in split_encoder_output(encoded)]
        tokens = [np.array(prompt, np.int32) for prompt in prompts]
        texts = np.empty((len(prompts), MAX_TEXT), np.int32)
        clips = (ClipCall * len(prompts))(*self._describe_clips(states, tokens, texts))
        search = self._build_search(method, timestamps=prompts[0][-1] != self._no_timestamps)
        if self._library.decode_clips(self._decoder, search, clips, len(clips)):
            raise MemoryError("not enough memory to decode the text")
        return [
            TokenText(tuple(text[: clip.length].tolist()), clip.score, clip.no_speech_probability)
            for text, clip in zip(texts, clips, strict=True)
        ]

    def _decode_separately(
        self, encoded: EncoderOutput, prompts: Sequence[Sequence[int]], method: DecodingMethod
    ) -> list[TokenText]:
        """CTranslate2 needs equal lengths."""
        calls = zip(encoded, prompts, strict=True)
        texts = (self._fallback.decode_text([states], [prompt], method) for states, prompt in calls)
        return list(chain.from_iterable(texts))

    def _describe_clips(
        self, states: Sequence[npt.NDArray[np.float32]], prompts: Sequence[_Tokens], texts: _Tokens
    ) -> Iterator[ClipCall]:
        """The arrays must exist until the call has ended."""
        for of_clip, prompt, text in zip(states, prompts, texts, strict=True):
            yield ClipCall(
                states=of_clip.ctypes.data,
                prompt=prompt.ctypes.data,
                state_count=len(of_clip),
                prompt_length=len(prompt),
                start=int(np.flatnonzero(prompt == self._start)[-1]),
                max_tokens=min(MAX_TEXT, MAX_TOKENS + 1 - len(prompt)),
                text=text.ctypes.data,
            )

    def _build_search(self, method: DecodingMethod, *, timestamps: bool) -> Search:
        return Search(
            beam_size=method.beam_size,
            max_finished=int(method.beam_size * method.patience + 0.5),
            capacity=MAX_TEXT,
            end=self._end,
            no_speech=self._no_speech,
            no_timestamps=self._no_timestamps,
            has_timestamps=timestamps,
            latest_first=self._no_timestamps + 1 + _LATEST_FIRST,
            suppressed=self._suppressed.ctypes.data,
            suppressed_first=self._suppressed_first.ctypes.data,
            suppressed_count=len(self._suppressed),
            suppressed_first_count=len(self._suppressed_first),
        )


def _list_languages(tokenizer: Tokenizer) -> list[str]:
    """Return the codes of the languages by token, from that after the start on. Raises Unsupported.

    Their tokens are between those of the start and of the two tasks.
    """
    try:
        tokens = range(tokenizer.sot + 1, min(tokenizer.translate, tokenizer.transcribe))
        return [tokenizer.tokenizer.id_to_token(token)[2:-2] for token in tokens]
    except TypeError as error:  # it has no such tokens
        raise Unsupported("the model's tokenizer has other tokens") from error
