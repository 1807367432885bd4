"""Speech to segments with one Whisper model: windows fitted to the speech, doubtful text decoded in other ways."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ctranslate2 import DataType, Device, StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from speakeasyd.domain.options import Options
from speakeasyd.domain.text_quality import (
    DecodeStatistics,
    Passage,
    choose_text,
    compute_compression_ratio,
    is_invented,
    is_settled,
    is_sparse,
)
from speakeasyd.domain.transcript import Chunk, Segment, Word, finite
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.token_segments import TokenSegment, split_tokens
from speakeasyd.engine.word_timestamps import align_words

_HOP = 160  # samples a frame
_FRAMES_PER_S = SAMPLE_RATE // _HOP
FULL_WINDOW = 3000  # frames: 30 s
_MARGIN = 2 * _FRAMES_PER_S
_FLOOR = 10 * _FRAMES_PER_S  # shorter windows make the model invent text over very short speech
_STEP = 1 * _FRAMES_PER_S
_WIDE = 5  # beam for what must be right
_MAX_TOKENS = 448
_MAX_PROMPT = 223  # tokens
_PROMPT_STEP = 16  # tokens: prompts of equal length fit in one batch
_SHORTEST_TAIL_S = 0.5
_LEAST_SPEECH_S = 0.3  # in a tail: over less, text is an invention


@dataclass(frozen=True, slots=True)
class DecodingMethod:
    """One deterministic way to decode."""

    beam_size: int = 5
    patience: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    full_window: bool = False
    prompted: bool = True

    @property
    def search(self) -> tuple[int, float, float, int]:
        """What the search depends on beside the window and the prompt."""
        return self.beam_size, self.patience, self.repetition_penalty, self.no_repeat_ngram_size


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """How one job is decoded: its options, translated for the model."""

    start: tuple[int, ...]  # tokens: start of transcript, language, task
    hints: tuple[int, ...]  # tokens of hotwords and initial prompt
    language: str
    way: DecodingMethod
    ladder: tuple[DecodingMethod, ...]  # to climb as long as the text is doubtful
    words: bool


@dataclass(frozen=True, slots=True)
class ChunkDecoding:
    """A part of a clip in one language."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip
    plan: DecodingPlan
    said: str  # before the clip, in this language


@dataclass(frozen=True, slots=True)
class Hypothesis:
    tokens: tuple[int, ...]
    evidence: DecodeStatistics
    encoded: StorageView | None  # shape (1, frames / 2, width), if it is still at hand


@dataclass(slots=True)
class _PartialText:
    """The text of a clip, as far as it is known."""

    segments: list[Segment] = field(default_factory=list)
    redone: int = 0

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    def append(self, more: "_PartialText") -> None:
        self.segments += more.segments
        self.redone += more.redone


def choose_first_method(options: Options) -> DecodingMethod:
    """How a clip is decoded at first."""
    match options.accuracy:
        case "fast":
            return DecodingMethod(beam_size=1)
        case "balanced":
            return DecodingMethod(beam_size=options.beam_size)
        case "exact":
            return DecodingMethod(beam_size=max(_WIDE, options.beam_size), full_window=True)


def _list_fallbacks(way: DecodingMethod) -> tuple[DecodingMethod, ...]:
    """Other ways, the likeliest to help first. No dice: sampling would give another text after a restart."""
    wide = replace(way, beam_size=max(_WIDE, way.beam_size), full_window=True)
    ways = (
        wide,
        replace(wide, prompted=False),
        replace(wide, prompted=False, repetition_penalty=1.2, no_repeat_ngram_size=3),
    )
    return tuple(other for other in ways if other != way)


class Decoder:
    """Safe to share between threads: the model queues, and nothing here changes."""

    def __init__(self, whisper: WhisperModel) -> None:
        self._whisper = whisper
        self._model = whisper.model
        self.multilingual = bool(whisper.model.is_multilingual)
        self.languages_known = frozenset(whisper.supported_languages)
        self._tokenizer = self.tokenizer("en")
        self._suppressed = list(get_suppressed_tokens(self._tokenizer, [-1]))

    def tokenizer(self, language: str, task: str = "transcribe") -> Tokenizer:
        return Tokenizer(
            self._whisper.hf_tokenizer, self.multilingual, task=task, language=language
        )

    def create_plan(self, options: Options, language: str) -> DecodingPlan:
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

    def build_prompt(self, plan: DecodingPlan, said: str) -> tuple[int, ...]:
        """What the decoder starts from: hints and what was said before, then language and task."""
        before = self._tokenizer.encode(" " + said.strip()) if said.strip() else []
        room = min(len(before), _MAX_PROMPT - len(plan.hints)) // _PROMPT_STEP * _PROMPT_STEP
        context = (*plan.hints, *before[len(before) - room :])
        return (self._tokenizer.sot_prev, *context, *plan.start) if context else plan.start

    # --- one window ---

    @staticmethod
    def fit_window(samples: int, way: DecodingMethod) -> int:
        """Frames of the encoder's window over so many samples."""
        speech = samples // _HOP
        fitted = max(_FLOOR, -(-(speech + _MARGIN) // _STEP) * _STEP)
        return FULL_WINDOW if way.full_window else min(FULL_WINDOW, fitted)

    def encode_clips(self, clips: Sequence[Samples], frames: int) -> StorageView:
        features = [self._compute_features(clip, frames)[np.newaxis] for clip in clips]
        if self._model.device != "cpu":
            features = [np.concatenate(features)]
        with label_phase(
            "encode"
        ):  # on the CPU one by one: what a batch computes on does not fit the cache
            return _join_encoded(
                [self._model.encode(StorageView.from_array(one)) for one in features]
            )

    def _compute_features(self, clip: Samples, frames: int) -> Samples:
        spectrum = self._whisper.feature_extractor(clip)[:, : min(frames, clip.size // _HOP)]
        window = np.zeros((spectrum.shape[0], frames), np.float32)
        window[:, : spectrum.shape[1]] = spectrum
        return window

    def languages(self, states: Samples) -> dict[str, float]:
        """Probability of each language in encoder states of shape (1, frames / 2, width)."""
        if not states.shape[1]:  # CTranslate2 would end the process
            return {}
        encoded = StorageView.from_array(np.ascontiguousarray(states))
        with label_phase("generate"):
            found = self._model.detect_language(encoded)[0]
        return {token[2:-2]: probability for token, probability in found}

    def decode_batch(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[tuple[int, ...]],
        way: DecodingMethod,
        encoded: StorageView | None = None,
    ) -> list[Hypothesis]:
        """Clips of one window length and prompts of one length, in one call of the model.

        `encoded` saves the encoder's work where it was done before, with the same window.
        """
        samples = [clip.samples for clip in clips]
        encoded = encoded or self.encode_clips(
            samples, self.fit_window(max(map(len, samples)), way)
        )
        with label_phase("generate"):
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
            self._build_hypothesis(result, clip, len(prompt), one)
            for result, clip, prompt, one in zip(
                results, clips, prompts, _split_encoded(encoded, len(clips)), strict=True
            )
        ]

    def _build_hypothesis(
        self, result: Any, clip: Clip, prompt: int, encoded: StorageView | None
    ) -> Hypothesis:
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
                Passage(one.start, one.end, self._tokenizer.decode(list(one.tokens)))
                for one in stretches
            ),
            speech_end=clip.voiced[-1][1] if clip.voiced else None,
        )
        return Hypothesis(tokens, evidence, encoded)

    # --- one chunk ---

    def finish_clip(self, clip: Clip, plan: DecodingPlan, said: str, first: Hypothesis) -> Chunk:
        """From the first hypothesis to the text of the whole clip: doubts settled, nothing left over."""
        return _chunk(clip, self._decode_remainder(clip, plan, said, first), plan.language)

    def decode_turns(self, clip: Clip, turns: Sequence[ChunkDecoding]) -> Chunk:
        """The text of a clip in which the language changes, each turn in its own language."""
        told = _PartialText()
        for turn in turns:
            plan = turn.plan
            before = [part.text for part in told.segments if part.language == plan.language]
            said = turn.said + "".join(before)
            told.append(self._decode_part(clip.cut_part(turn.start, turn.end), plan, said))
        return _chunk(clip, told, turns[-1].plan.language)

    def _decode_remainder(
        self, clip: Clip, plan: DecodingPlan, said: str, first: Hypothesis
    ) -> _PartialText:
        """The text of a clip or of a part of one. What it leaves over behind its last timestamp is told in turn."""
        if told := self._told_in_parts(clip, plan, said, first):
            return told
        hypothesis, redone = self._choose_text(clip, plan, said, first)
        stretches, resume = split_tokens(
            hypothesis.tokens, timestamp_begin=self._tokenizer.timestamp_begin, seconds=clip.seconds
        )
        told = _PartialText(redone=redone)
        if not is_invented(hypothesis.evidence):
            told.segments = self._segments(stretches, hypothesis, plan, clip)
        if resume and clip.seconds - resume >= _SHORTEST_TAIL_S:
            tail = clip.cut_part(resume)
            if tail.speech_s >= _LEAST_SPEECH_S:
                told.append(self._decode_part(tail, plan, said + hypothesis.evidence.text))
        return told

    def _decode_part(self, clip: Clip, plan: DecodingPlan, said: str) -> _PartialText:
        return self._decode_remainder(
            clip,
            plan,
            said,
            self.decode_batch([clip], [self.build_prompt(plan, said)], plan.way)[0],
        )

    def _told_in_parts(
        self, clip: Clip, plan: DecodingPlan, said: str, first: Hypothesis
    ) -> _PartialText | None:
        """Where the decoder jumped over speech, what is before the longest pause and what is behind it each by itself.

        None if nothing was jumped over, or if that brings no more text.
        """
        pause = clip.longest_pause
        if not (plan.ladder and pause and is_sparse(first.evidence)):
            return None
        middle = sum(pause) / 2
        told = self._decode_part(clip.cut_part(0.0, middle), plan, said)
        told.append(self._decode_part(clip.cut_part(middle), plan, said + told.text))
        told.redone += 1
        return told if len(told.text) > len(first.evidence.text) else None

    def _choose_text(
        self, clip: Clip, plan: DecodingPlan, said: str, first: Hypothesis
    ) -> tuple[Hypothesis, int]:
        """The most credible text of those that had to be tried, and how many more than one were."""
        frames = self.fit_window(clip.samples.size, plan.way)
        prompt = self.build_prompt(plan, said)
        tried = [first]
        evidence = [replace(first.evidence, said=said)]
        calls = [(frames, prompt, plan.way.search)]
        for way in plan.ladder:
            if is_settled(evidence):
                break
            frames = self.fit_window(clip.samples.size, way)
            prompt = self.build_prompt(plan, said) if way.prompted else plan.start
            call = (frames, prompt, way.search)
            if call not in calls:  # the same call gives the same text
                calls.append(call)
                tried.extend(self.decode_batch([clip], [prompt], way))
                evidence.append(replace(tried[-1].evidence, said=said))
        return tried[choose_text(evidence)], len(tried) - 1

    def _segments(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: Hypothesis,
        plan: DecodingPlan,
        clip: Clip,
    ) -> list[Segment]:
        words = (
            self._words(stretches, hypothesis, plan, clip.samples)
            if plan.words
            else [()] * len(stretches)
        )
        found = (
            self._segment(stretch, spoken, hypothesis.evidence, clip, plan.language)
            for stretch, spoken in zip(stretches, words, strict=True)
        )
        return [segment for segment in found if segment.text.strip()]

    def _segment(
        self,
        stretch: TokenSegment,
        words: Sequence[Word],
        evidence: DecodeStatistics,
        clip: Clip,
        language: str,
    ) -> Segment:
        text = self._tokenizer.decode(list(stretch.tokens))
        at = clip.start
        return Segment(
            start=round(at + (words[0].start if words else stretch.start), 3),
            end=round(at + (words[-1].end if words else stretch.end), 3),
            text=text,
            avg_logprob=finite(evidence.avg_logprob),
            compression_ratio=finite(compute_compression_ratio(text)),
            no_speech_prob=finite(evidence.no_speech_prob),
            channel=clip.channel,
            track=clip.track,
            language=language,
            words=tuple(
                Word(round(at + w.start, 3), round(at + w.end, 3), w.text, w.probability)
                for w in words
            ),
        )

    def _words(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: Hypothesis,
        plan: DecodingPlan,
        clip: Samples,
    ) -> list[tuple[Word, ...]]:
        encoded = hypothesis.encoded or self.encode_clips(
            [clip], self.fit_window(clip.size, plan.way)
        )
        with label_phase("align"):
            return align_words(
                self._model,
                self.tokenizer(plan.language),
                encoded,
                stretches,
                start=plan.start,
                frames=min(clip.size // _HOP, FULL_WINDOW),
            )


def _chunk(clip: Clip, told: _PartialText, language: str) -> Chunk:
    segments = tuple(told.segments)
    return Chunk(
        clip.index,
        clip.start,
        clip.end,
        segments,
        clip.channel,
        told.redone,
        language=language,
        track=clip.track,
    )


def states_of(encoded: StorageView) -> Samples:
    """The encoder's output in the memory of the machine, shape (clips, frames / 2, width)."""
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
    """The encoder's output of each clip, where taking it apart costs nothing: in the CPU's memory."""
    if clips == 1:
        return [encoded]
    if encoded.device != "cpu":
        return [None] * clips
    return [StorageView.from_array(one[np.newaxis]) for one in np.asarray(encoded)]
