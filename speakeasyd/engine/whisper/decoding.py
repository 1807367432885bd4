"""Decodes speech to segments with a Whisper model.

Encoder windows are fitted to the speech. Doubtful text is decoded again with other methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ctranslate2 import DataType, Device, StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.options import Options
from speakeasyd.domain.recognition import RecognizedText, compute_confidence
from speakeasyd.domain.text_quality import (
    DecodeStatistics,
    Passage,
    choose_text,
    compute_compression_ratio,
    is_invented,
    is_settled,
    is_sparse,
)
from speakeasyd.domain.transcript import Segment, Word, finite
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.whisper.token_segments import TokenSegment, split_tokens
from speakeasyd.engine.whisper.word_timestamps import align_words

_HOP = 160  # samples a frame
FRAMES_PER_S = SAMPLE_RATE // _HOP
FULL_WINDOW = 3000  # frames: 30 s
_MARGIN = 2 * FRAMES_PER_S  # frames of silence after the speech
# Seconds: the windows besides the full one. In shorter ones, the model hallucinates
_WINDOWS_S = tuple(range(10, 30))
_WIDE = 5  # beam size of the careful methods
_MAX_TOKENS = 448  # tokens of prompt and text: the limit of Whisper
_MAX_PROMPT = 223  # tokens
# Tokens of the text before: clips with prompts of equal length can share a call
_CONTEXTS = tuple(range(0, _MAX_PROMPT, 16))
_SHORTEST_TAIL_S = 0.5  # seconds: a shorter rest of a clip is not decoded
_LEAST_SPEECH_S = 0.3  # seconds of speech in such a rest; with less, text is a hallucination


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


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """How a job is decoded in one language: its options as tokens and methods."""

    start: tuple[int, ...]  # tokens: start of transcript, language, task
    hints: tuple[int, ...]  # tokens of hotwords and initial prompt
    language: str
    way: DecodingMethod
    ladder: tuple[DecodingMethod, ...]  # fallbacks, tried in order while the text is doubtful
    words: bool


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A decoded text of one clip."""

    tokens: tuple[int, ...]
    evidence: DecodeStatistics
    encoded: StorageView | None  # encoder output, shape (1, frames / 2, width), if it was kept


def choose_first_method(options: Options) -> DecodingMethod:
    """Return the method with which a clip is decoded first."""
    match options.accuracy:
        case "fast":
            return DecodingMethod(beam_size=1)
        case "balanced":
            return DecodingMethod(beam_size=options.beam_size)
        case "exact":
            return DecodingMethod(beam_size=max(_WIDE, options.beam_size), full_window=True)


def _list_fallbacks(way: DecodingMethod) -> tuple[DecodingMethod, ...]:
    """Return the other methods, the most promising first.

    None of them samples: after a restart, sampling would give another text.
    """
    wide = replace(way, beam_size=max(_WIDE, way.beam_size), full_window=True)
    ways = (
        wide,
        replace(wide, prompted=False),
        replace(wide, prompted=False, repetition_penalty=1.2, no_repeat_ngram_size=3),
    )
    return tuple(fallback for fallback in ways if fallback != way)


class Decoder:
    """Decodes clips. Thread-safe: the model queues calls, and this object is immutable."""

    def __init__(self, whisper: WhisperModel) -> None:
        self._whisper = whisper
        self._model = whisper.model
        self.multilingual = bool(whisper.model.is_multilingual)
        self._tokenizer = self.tokenizer("en")
        self._suppressed = list(get_suppressed_tokens(self._tokenizer, [-1]))

    def tokenizer(self, language: str, task: str = "transcribe") -> Tokenizer:
        return Tokenizer(
            self._whisper.hf_tokenizer, self.multilingual, task=task, language=language
        )

    def create_plan(self, options: Options, language: str) -> DecodingPlan:
        """Return the plan of a job with these options in one language."""
        tokenizer = self.tokenizer(language, options.task)
        way = choose_first_method(options)
        hints = [
            text.strip() for text in (options.hotwords, options.initial_prompt) if text.strip()
        ]
        tokens = [token for hint in hints for token in tokenizer.encode(" " + hint)]
        return DecodingPlan(
            start=tuple(tokenizer.sot_sequence),
            hints=tuple(tokens[-_MAX_PROMPT:]),
            language=language,
            way=way,
            ladder=_list_fallbacks(way) if options.fallback else (),
            words=options.word_timestamps,
        )

    def build_prompt(self, plan: DecodingPlan, context: str) -> tuple[int, ...]:
        """Return the prompt's tokens: hints, the text before, then language and task."""
        before = self._tokenizer.encode(" " + context.strip()) if context.strip() else []
        most = min(len(before), _MAX_PROMPT - len(plan.hints))
        room = max(length for length in _CONTEXTS if length <= most)
        tokens = (*plan.hints, *before[len(before) - room :])
        return (self._tokenizer.sot_prev, *tokens, *plan.start) if tokens else plan.start

    # --- one window ---

    @staticmethod
    def fit_window(samples: int, way: DecodingMethod) -> int:
        """Return the frames of the encoder's window for this many samples."""
        speech = samples // _HOP
        if way.full_window:
            return FULL_WINDOW
        frames = (seconds * FRAMES_PER_S for seconds in _WINDOWS_S)
        return next((window for window in frames if window >= speech + _MARGIN), FULL_WINDOW)

    def encode_clips(self, clips: Sequence[Samples], frames: int) -> StorageView:
        """Return the encoder's output, shape (clips, frames / 2, width). Raises EngineFault."""
        features = [self._compute_features(clip, frames)[np.newaxis] for clip in clips]
        if self._model.device != "cpu":
            features = [np.concatenate(features)]
        # On the CPU, clips are encoded one by one: the data of a batch does not fit the cache
        with label_phase(Phase.ENCODE):
            return _join_encoded(
                [self._model.encode(StorageView.from_array(window)) for window in features]
            )

    def _compute_features(self, clip: Samples, frames: int) -> Samples:
        spectrum = self._whisper.feature_extractor(clip)[:, : min(frames, clip.size // _HOP)]
        window = np.zeros((spectrum.shape[0], frames), np.float32)
        window[:, : spectrum.shape[1]] = spectrum
        return window

    def rate_languages(self, states: Samples) -> dict[str, float]:
        """Return each language's probability for encoder states, shape (1, frames / 2, width).

        Raises EngineFault.
        """
        if not states.shape[1]:  # CTranslate2 would abort the process
            return {}
        encoded = StorageView.from_array(np.ascontiguousarray(states))
        with label_phase(Phase.GENERATE):
            found = self._model.detect_language(encoded)[0]
        return {token[2:-2]: probability for token, probability in found}

    def decode_batch(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[tuple[int, ...]],
        way: DecodingMethod,
        encoded: StorageView | None = None,
    ) -> list[DecodedClip]:
        """Decode clips in one call of the model. Raises EngineFault.

        All clips have the same window length, and all prompts the same length. `encoded`: the
        encoder's output for the same window, if it exists already.
        """
        samples = [clip.samples for clip in clips]
        encoded = encoded or self.encode_clips(
            samples, self.fit_window(max(map(len, samples)), way)
        )
        with label_phase(Phase.GENERATE):
            results = self._model.generate(
                encoded,
                [list(prompt) for prompt in prompts],
                beam_size=way.beam_size,
                patience=way.patience,
                repetition_penalty=way.repetition_penalty,
                no_repeat_ngram_size=way.no_repeat_ngram_size,
                max_length=_MAX_TOKENS,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_tokens=self._suppressed,
            )
        return [
            self._build_hypothesis(result, clip, len(prompt), clip_encoded)
            for result, clip, prompt, clip_encoded in zip(
                results, clips, prompts, _split_encoded(encoded, len(clips)), strict=True
            )
        ]

    def _build_hypothesis(
        self, result: Any, clip: Clip, prompt: int, encoded: StorageView | None
    ) -> DecodedClip:
        tokens = tuple(result.sequences_ids[0])
        stretches, _ = split_tokens(tokens, timestamp_begin=self._tokenizer.timestamp_begin)
        evidence = DecodeStatistics(
            text=self._tokenizer.decode(list(tokens)).strip(),
            tokens=sum(token < self._tokenizer.eot for token in tokens),
            speech_s=clip.speech_s,
            avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
            no_speech_prob=result.no_speech_prob,
            cut_off=len(tokens) + prompt >= _MAX_TOKENS,
            passages=tuple(
                Passage(stretch.start, stretch.end, self._tokenizer.decode(list(stretch.tokens)))
                for stretch in stretches
            ),
            speech_end=clip.voiced[-1][1] if clip.voiced else None,
        )
        return DecodedClip(tokens, evidence, encoded)

    # --- the whole text of a clip ---

    def complete_text(
        self, clip: Clip, plan: DecodingPlan, context: str, first: DecodedClip
    ) -> RecognizedText:
        """Return the text of a clip or a part of one, from its first hypothesis.

        Doubtful text is decoded again, and so is what follows the last timestamp. Raises
        EngineFault.
        """
        if text := self._decode_around_pause(clip, plan, context, first):
            return text
        hypothesis, redone = self._choose_text(clip, plan, context, first)
        stretches, resume = split_tokens(
            hypothesis.tokens, timestamp_begin=self._tokenizer.timestamp_begin, seconds=clip.seconds
        )
        segments = (
            ()
            if is_invented(hypothesis.evidence)
            else self._build_segments(stretches, hypothesis, plan, clip)
        )
        text = RecognizedText(segments, redone)
        if resume and clip.seconds - resume >= _SHORTEST_TAIL_S:
            tail = clip.cut_part(resume)
            if tail.speech_s >= _LEAST_SPEECH_S:
                rest = self._decode_part(tail, plan, context + hypothesis.evidence.text)
                return text.followed_by(rest)
        return text

    def _decode_part(self, clip: Clip, plan: DecodingPlan, context: str) -> RecognizedText:
        return self.complete_text(
            clip,
            plan,
            context,
            self.decode_batch([clip], [self.build_prompt(plan, context)], plan.way)[0],
        )

    def _decode_around_pause(
        self, clip: Clip, plan: DecodingPlan, context: str, first: DecodedClip
    ) -> RecognizedText | None:
        """If the decoder skipped speech, decode the parts before and after the longest pause.

        None if nothing was skipped, or if this gives no more text.
        """
        pause = clip.longest_pause
        if not (plan.ladder and pause and is_sparse(first.evidence)):
            return None
        middle = sum(pause) / 2
        before = self._decode_part(clip.cut_part(0.0, middle), plan, context)
        after = self._decode_part(clip.cut_part(middle), plan, context + before.text)
        text = RecognizedText(redone=1).followed_by(before).followed_by(after)
        return text if len(text.text) > len(first.evidence.text) else None

    def _choose_text(
        self, clip: Clip, plan: DecodingPlan, context: str, first: DecodedClip
    ) -> tuple[DecodedClip, int]:
        """Return the best hypothesis of the methods tried, and the number of fallbacks used."""
        frames = self.fit_window(clip.samples.size, plan.way)
        prompt = self.build_prompt(plan, context)
        tried = [first]
        evidence = [replace(first.evidence, context=context)]
        calls = [(frames, prompt, plan.way.search)]
        for way in plan.ladder:
            if is_settled(evidence):
                break
            frames = self.fit_window(clip.samples.size, way)
            prompt = self.build_prompt(plan, context) if way.prompted else plan.start
            call = (frames, prompt, way.search)
            if call not in calls:  # the same call gives the same text
                calls.append(call)
                tried.extend(self.decode_batch([clip], [prompt], way))
                evidence.append(replace(tried[-1].evidence, context=context))
        return tried[choose_text(evidence)], len(tried) - 1

    def _build_segments(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: DecodedClip,
        plan: DecodingPlan,
        clip: Clip,
    ) -> tuple[Segment, ...]:
        words = (
            self._find_words(stretches, hypothesis, plan, clip.samples)
            if plan.words or clip.has_several_speakers
            else [()] * len(stretches)
        )
        found = (
            self._build_segment(stretch, timed_words, hypothesis.evidence, clip, plan)
            for stretch, timed_words in zip(stretches, words, strict=True)
        )
        return tuple(segment for segment in found if segment.text.strip())

    def _build_segment(
        self,
        stretch: TokenSegment,
        words: Sequence[Word],
        evidence: DecodeStatistics,
        clip: Clip,
        plan: DecodingPlan,
    ) -> Segment:
        text = self._tokenizer.decode(list(stretch.tokens))
        at = clip.start
        timed = words if plan.words else ()
        return Segment(
            start=round(at + (timed[0].start if timed else stretch.start), 3),
            end=round(at + (timed[-1].end if timed else stretch.end), 3),
            text=text,
            confidence=compute_confidence(evidence.avg_logprob),
            avg_logprob=finite(evidence.avg_logprob),
            compression_ratio=finite(compute_compression_ratio(text)),
            no_speech_prob=finite(evidence.no_speech_prob),
            channel=clip.channel,
            track=clip.track,
            language=plan.language,
            words=tuple(
                Word(round(at + w.start, 3), round(at + w.end, 3), w.text, w.probability)
                for w in words
            ),
        )

    def _find_words(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: DecodedClip,
        plan: DecodingPlan,
        clip: Samples,
    ) -> list[tuple[Word, ...]]:
        encoded = hypothesis.encoded or self.encode_clips(
            [clip], self.fit_window(clip.size, plan.way)
        )
        with label_phase(Phase.ALIGN):
            return align_words(
                self._model,
                self.tokenizer(plan.language),
                encoded,
                stretches,
                start=plan.start,
                frames=min(clip.size // _HOP, FULL_WINDOW),
            )


def states_of(encoded: StorageView) -> Samples:
    """Copy the encoder's output to host memory, shape (clips, frames / 2, width), float32."""
    if encoded.device != "cpu":
        encoded = encoded.to(DataType.float32).to_device(Device.cpu)
    states: Samples = np.asarray(encoded)
    return states


def _join_encoded(encoded: Sequence[StorageView]) -> StorageView:
    return (
        encoded[0]
        if len(encoded) == 1
        else StorageView.from_array(np.concatenate(list(map(np.asarray, encoded))))
    )


def _split_encoded(encoded: StorageView, clips: int) -> list[StorageView] | list[None]:
    """Split the encoder's output by clip if it lies in host memory; else return None for each."""
    if clips == 1:
        return [encoded]
    if encoded.device != "cpu":
        return [None] * clips
    return [StorageView.from_array(states[np.newaxis]) for states in np.asarray(encoded)]
