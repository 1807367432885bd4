"""Speech to segments with one Whisper model: windows fitted to the speech, doubtful text decoded in other ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from speakeasyd.domain.doubt import Evidence, compression_ratio, silent
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Chunk, Segment, Word
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.faults import during
from speakeasyd.engine.segments import Stretch, split
from speakeasyd.engine.words import align_words

_HOP = 160  # samples a frame
_FRAMES_PER_S = SAMPLE_RATE // _HOP
FULL_WINDOW = 3000  # frames: 30 s
_MARGIN = 3 * _FRAMES_PER_S
_FLOOR = 15 * _FRAMES_PER_S  # shorter windows make the model invent text over very short speech
_STEP = 1 * _FRAMES_PER_S
_MAX_TOKENS = 448
_MAX_PROMPT = 223  # tokens
_SHORTEST_TAIL_S = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """One deterministic way to decode."""

    beam_size: int = 5
    patience: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    full_window: bool = False
    prompted: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """How one job is decoded: its options, translated for the model."""

    start: tuple[int, ...]  # tokens: start of transcript, language, task
    prompt: tuple[int, ...]  # tokens of initial prompt and hotwords
    language: str
    way: Way
    fallback: bool
    words: bool


@dataclass(frozen=True, slots=True)
class Hypothesis:
    tokens: tuple[int, ...]
    evidence: Evidence
    encoded: StorageView | None  # shape (1, frames / 2, width), if words were asked for


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
        return Tokenizer(self._whisper.hf_tokenizer, self.multilingual, task=task, language=language)

    def plan(self, options: Options, language: str) -> Plan:
        tokenizer = self.tokenizer(language, options.task)
        hints = [text.strip() for text in (options.hotwords, options.initial_prompt) if text.strip()]
        prompt = [token for hint in hints for token in tokenizer.encode(" " + hint)]
        return Plan(
            start=tuple(tokenizer.sot_sequence),
            prompt=(tokenizer.sot_prev, *prompt[-_MAX_PROMPT:]) if prompt else (),
            language=language,
            way=Way(
                beam_size=1 if options.accuracy == "fast" else options.beam_size,
                full_window=options.accuracy == "exact",
            ),
            fallback=options.fallback and options.accuracy != "fast",
            words=options.word_timestamps,
        )

    # --- one window ---------------------------------------------------------------------------------------------------

    @staticmethod
    def window(samples: int, way: Way) -> int:
        """Frames of the encoder's window over so many samples."""
        speech = samples // _HOP
        fitted = max(_FLOOR, -(-(speech + _MARGIN) // _STEP) * _STEP)
        return FULL_WINDOW if way.full_window else min(FULL_WINDOW, fitted)

    def encode(self, clips: Sequence[Samples], frames: int) -> StorageView:
        features = np.stack([self._features(clip, frames) for clip in clips])
        with during("encode"):
            return self._model.encode(StorageView.from_array(features))

    def _features(self, clip: Samples, frames: int) -> Samples:
        spectrum = self._whisper.feature_extractor(clip)[:, : min(frames, clip.size // _HOP)]
        window = np.zeros((spectrum.shape[0], frames), np.float32)
        window[:, : spectrum.shape[1]] = spectrum
        return window

    def languages(self, encoded: StorageView) -> dict[str, float]:
        """Probability of each language over one encoded clip."""
        with during("generate"):
            return {token[2:-2]: probability for token, probability in self._model.detect_language(encoded)[0]}

    def attempt(self, clips: Sequence[Samples], plans: Sequence[Plan], way: Way) -> list[Hypothesis]:
        """Clips of one window length, each with its plan, in one call of the model."""
        encoded = self.encode(clips, self.window(max(clip.size for clip in clips), way))
        prompts = [[*(plan.prompt if way.prompted else ()), *plan.start] for plan in plans]
        with during("generate"):
            results = self._model.generate(
                encoded,
                prompts,
                beam_size=way.beam_size,
                patience=way.patience,
                repetition_penalty=way.repetition_penalty,
                no_repeat_ngram_size=way.no_repeat_ngram_size,
                max_length=_MAX_TOKENS,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_tokens=self._suppressed,
            )
        alone = len(clips) == 1
        return [
            self._hypothesis(result, clip, len(prompt), encoded if alone else None)
            for result, clip, prompt in zip(results, clips, prompts, strict=True)
        ]

    def _hypothesis(self, result: Any, clip: Samples, prompt: int, encoded: StorageView | None) -> Hypothesis:
        tokens = tuple(result.sequences_ids[0])
        evidence = Evidence(
            text=self._tokenizer.decode(list(tokens)).strip(),
            seconds=clip.size / SAMPLE_RATE,
            avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
            no_speech_prob=result.no_speech_prob,
            cut_off=len(tokens) + prompt >= _MAX_TOKENS,
        )
        return Hypothesis(tokens, evidence, encoded)

    # --- one chunk ----------------------------------------------------------------------------------------------------

    def finish(self, clip: Clip, plan: Plan, first: Hypothesis) -> Chunk:
        """From the first hypothesis to the text of the whole clip: doubts settled, no tail left over."""
        segments: list[Segment] = []
        offset, redone = 0, 0
        hypothesis = first
        while True:
            rest = clip.samples[offset:]
            hypothesis, tries = self._settle(rest, plan, hypothesis)
            redone += tries
            stretches, resume = split(
                hypothesis.tokens, timestamp_begin=self._tokenizer.timestamp_begin, seconds=rest.size / SAMPLE_RATE
            )
            if not silent(hypothesis.evidence):
                words = self._words(stretches, hypothesis, plan, rest) if plan.words else [()] * len(stretches)
                at = clip.start + offset / SAMPLE_RATE
                segments.extend(
                    self._segment(stretch, spoken, hypothesis.evidence, at, clip.channel)
                    for stretch, spoken in zip(stretches, words, strict=True)
                )
            offset += round((resume or 0.0) * SAMPLE_RATE)
            if not resume or clip.samples.size - offset < _SHORTEST_TAIL_S * SAMPLE_RATE:
                break
            hypothesis = self.attempt([clip.samples[offset:]], [plan], plan.way)[0]
        spoken_of = tuple(segment for segment in segments if segment.text.strip())
        return Chunk(clip.index, clip.start, clip.end, spoken_of, clip.channel, redone)

    def _settle(self, clip: Samples, plan: Plan, first: Hypothesis) -> tuple[Hypothesis, int]:
        """The most credible text of the ways that had to be tried, and how many more than one that were."""
        return first, 0

    def _segment(
        self, stretch: Stretch, words: Sequence[Word], evidence: Evidence, at: float, channel: int | None
    ) -> Segment:
        text = self._tokenizer.decode(list(stretch.tokens))
        return Segment(
            start=round(at + (words[0].start if words else stretch.start), 3),
            end=round(at + (words[-1].end if words else stretch.end), 3),
            text=text,
            avg_logprob=evidence.avg_logprob,
            compression_ratio=compression_ratio(text),
            no_speech_prob=evidence.no_speech_prob,
            channel=channel,
            words=tuple(Word(round(at + w.start, 3), round(at + w.end, 3), w.text, w.probability) for w in words),
        )

    def _words(
        self, stretches: Sequence[Stretch], hypothesis: Hypothesis, plan: Plan, clip: Samples
    ) -> list[tuple[Word, ...]]:
        encoded = hypothesis.encoded or self.encode([clip], self.window(clip.size, plan.way))
        with during("align"):
            return align_words(
                self._model,
                self.tokenizer(plan.language),
                encoded,
                stretches,
                start=plan.start,
                frames=min(clip.size // _HOP, FULL_WINDOW),
            )
