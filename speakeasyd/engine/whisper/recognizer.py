"""Whisper on CTranslate2 as a recognizer."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from speakeasyd.domain.options import Options
from speakeasyd.domain.recognition import Capabilities, LanguageProbabilities, RecognizedText
from speakeasyd.engine.audio import Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.recognizer import Span
from speakeasyd.engine.whisper.decoding import (
    FRAMES_PER_S,
    DecodedClip,
    Decoder,
    DecodingPlan,
)
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.network import (
    CallRules,
    Network,
    arrange_clips,
    split_encoder_output,
)

_STATES_PER_S = 50  # encoder states a second of audio
_ANY_LANGUAGE = "en"  # stands for a language that is not known yet; every model has it
_PLANS_KEPT = 256


@dataclass(frozen=True, slots=True)
class WhisperRequest:
    """A clip with the tokens of its prompt and the window of the encoder."""

    clip: Clip
    language: str | None
    context: str
    plan: DecodingPlan
    prompt: tuple[int, ...]
    frames: int
    call_lengths: tuple[int, ...]  # of prompt and window, if those of a call have to be equal

    @property
    def batch_key(self) -> Hashable:
        """One call has one decoding method; if words are aligned, one language and task."""
        task = self.plan.task if self.plan.needs_alignment(self.clip) else ()
        return self.plan.way, task, self.call_lengths

    @property
    def batch_seconds(self) -> float:
        return self.frames / FRAMES_PER_S


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """Encoder states, shape (1, frames / 2, width), float32, and the clip's length in seconds."""

    states: Samples
    seconds: float


@dataclass(frozen=True, slots=True)
class WhisperHypothesis:
    decoder: Decoder
    request: WhisperRequest
    decoded: DecodedClip

    def settle_doubts(self) -> RecognizedText:
        """See `Hypothesis`. Text after an early end is decoded, too."""
        request = self.request
        return self.decoder.complete_text(request.clip, request.plan, request.context, self.decoded)


class WhisperRecognizer:
    """See `Recognizer`."""

    def __init__(self, model: LazyModel, network: Network, rules: CallRules | None = None) -> None:
        """`rules`: those of the network, if not given."""
        self.model, self.network = model, network
        self._decoder = Decoder(model, network, rules)
        self._create_plan = lru_cache(_PLANS_KEPT)(self._decoder.create_plan)
        self.capabilities = Capabilities(
            languages=model.languages,
            tasks=frozenset({"transcribe", "translate"} if model.multilingual else {"transcribe"}),
            detects_languages=model.multilingual,
            word_times=True,
            prompts=True,
        )

    def prepare(
        self, clip: Clip, options: Options, language: str | None, context: str = ""
    ) -> WhisperRequest:
        plan = self._create_plan(options, language or _ANY_LANGUAGE)
        prompt = self._decoder.build_prompt(plan, context)
        frames = self._decoder.fit_window(clip.samples.size, plan.way)
        return WhisperRequest(
            clip=clip,
            language=language,
            context=context,
            plan=plan,
            prompt=prompt,
            frames=frames,
            call_lengths=(len(prompt), frames) if self._decoder.rules.equal_lengths else (),
        )

    def encode(self, requests: Sequence[WhisperRequest]) -> list[EncodedClip]:
        clips = [request.clip for request in requests]
        output = self._decoder.encode_clips(
            [clip.samples for clip in clips], [request.frames for request in requests]
        )
        return [
            EncodedClip(states.copy(), clip.seconds)  # not a view of a whole batch
            for states, clip in zip(split_encoder_output(output), clips, strict=True)
        ]

    def rate_languages(
        self, encoded: EncodedClip, stretches: Sequence[Span] | None = None
    ) -> list[LanguageProbabilities]:
        states = encoded.states
        if stretches is None:
            return [self._decoder.rate_languages(states)]
        # without the silence after the clip, detection is often wrong
        silence = states[:, int(encoded.seconds * _STATES_PER_S) :]
        parts = (
            states[:, int(start * _STATES_PER_S) : int(end * _STATES_PER_S) + 1]
            for start, end in stretches
        )
        return [
            self._decoder.rate_languages(np.concatenate([part, silence], axis=1)) for part in parts
        ]

    def recognize_batch(
        self, requests: Sequence[WhisperRequest], encoded: Sequence[EncodedClip] | None = None
    ) -> list[WhisperHypothesis]:
        decoded = self._decoder.decode_batch(
            [request.clip for request in requests],
            [request.prompt for request in requests],
            requests[0].plan,
            requests[0].plan.way,
            arrange_clips([of_clip.states for of_clip in encoded], self.model.device)
            if encoded
            else None,
        )
        return [
            WhisperHypothesis(self._decoder, request, of_clip)
            for request, of_clip in zip(requests, decoded, strict=True)
        ]

    def free(self) -> None:
        """Drop the only references to the model."""
        del self.model, self.network, self._decoder, self._create_plan
