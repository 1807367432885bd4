"""Decodes speech to segments with a Whisper model.

Encoder windows are fitted to the speech. Doubtful text is decoded again with other methods.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice

import numpy as np

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.options import Options
from speakeasyd.domain.recognition import LanguageProbabilities, RecognizedText, compute_confidence
from speakeasyd.domain.sentences import split_sentences, trim_to_speech
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
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.network import (
    MAX_PROMPT,
    MAX_TEXT,
    MAX_TOKENS,
    CallRules,
    DecodingMethod,
    EncoderOutput,
    Network,
    TokenText,
)
from speakeasyd.engine.whisper.token_segments import TokenSegment, split_tokens
from speakeasyd.engine.whisper.word_timestamps import align_words

_HOP = 160  # samples a frame
FRAMES_PER_S = SAMPLE_RATE // _HOP
FULL_WINDOW = 3000  # frames: 30 s
_MARGIN = 2 * FRAMES_PER_S  # frames of silence after the speech
_LEAST_ALIGNED = 4  # frames: two encoder states; with one, CTranslate2 gives times below 0
_WIDE = 5  # beam size of the careful methods
_SHORTEST_TAIL_S = 0.5  # seconds: a shorter rest of a clip is not decoded
_LEAST_SPEECH_S = 0.3  # seconds of speech in such a rest; with less, text is a hallucination


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """How a job is decoded in one language: its options as tokens and methods."""

    task: tuple[int, ...]  # tokens: start of transcript, language, task
    start: tuple[int, ...]  # tokens that end each prompt: `task`, or that and "no timestamps"
    hints: tuple[int, ...]  # tokens of hotwords and initial prompt
    language: str  # spoken
    text_language: str  # another one if it is translated
    way: DecodingMethod
    ladder: tuple[DecodingMethod, ...]  # fallbacks, tried in order while the text is doubtful
    words: bool  # wanted in the transcript

    @property
    def has_timestamps(self) -> bool:
        return self.start == self.task

    def needs_alignment(self, clip: Clip) -> bool:
        """Whether the words of a clip are aligned with the audio."""
        return self.words or not self.has_timestamps or clip.has_several_speakers


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A decoded text of one clip."""

    tokens: tuple[int, ...]
    evidence: DecodeStatistics
    stretches: Sequence[TokenSegment]  # their times may lie after the end of the clip
    words: Sequence[Sequence[Word]] = ()  # of each stretch, in seconds of the clip; if aligned


@dataclass(frozen=True, slots=True)
class TimedText:
    """A part of a clip's text, with times in seconds of the clip."""

    start: float
    end: float
    text: str
    words: Sequence[Word]  # empty if they were not aligned


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

    def __init__(self, model: LazyModel, network: Network, rules: CallRules | None = None) -> None:
        """`rules`: those of the network, if not given."""
        self._model, self._network = model, network
        self.rules = rules or network.rules
        self._tokenizer = model.create_tokenizer("en")

    def create_plan(self, options: Options, language: str) -> DecodingPlan:
        """Return the plan of a job with these options in one language."""
        tokenizer = self._model.create_tokenizer(language, options.task)
        way = choose_first_method(options)
        hints = [
            text.strip() for text in (options.hotwords, options.initial_prompt) if text.strip()
        ]
        tokens = [token for hint in hints for token in self._encode(" " + hint)]
        task = tuple(tokenizer.sot_sequence)
        timestamps = self.rules.timestamps or options.accuracy == "exact"
        return DecodingPlan(
            task=task,
            start=task if timestamps else (*task, tokenizer.no_timestamps),
            hints=tuple(tokens[-MAX_PROMPT:]),
            language=language,
            text_language="en" if options.task == "translate" else language,
            way=way,
            ladder=_list_fallbacks(way) if options.fallback else (),
            words=options.word_timestamps,
        )

    def build_prompt(self, plan: DecodingPlan, context: str) -> tuple[int, ...]:
        """Return the prompt's tokens: hints, the text before, then language and task."""
        before = self._encode(" " + context.strip()) if context.strip() else []
        most = min(len(before), MAX_PROMPT - len(plan.hints))
        room = max(length for length in self.rules.contexts if length <= most)
        tokens = (*plan.hints, *before[len(before) - room :])
        return (self._tokenizer.sot_prev, *tokens, *plan.start) if tokens else plan.start

    def _encode(self, text: str) -> list[int]:
        """Return the tokens of a text. "<|notimestamps|>" and the like in it are left out."""
        return [token for token in self._tokenizer.encode(text) if token < self._tokenizer.eot]

    # --- one window ---

    def fit_window(self, samples: int, way: DecodingMethod) -> int:
        """Return the frames of the encoder's window for this many samples."""
        speech = samples // _HOP
        if way.full_window:
            return FULL_WINDOW
        frames = (seconds * FRAMES_PER_S for seconds in self.rules.windows_s)
        return next((window for window in frames if window >= speech + _MARGIN), FULL_WINDOW)

    def encode_clips(self, clips: Sequence[Samples], frames: Sequence[int]) -> EncoderOutput:
        """Return the encoder's output for windows of `frames`. Raises EngineFault."""
        windows = list(map(self._compute_features, clips, frames))
        with label_phase(Phase.ENCODE):
            return self._network.encode_windows(windows)

    def _compute_features(self, clip: Samples, frames: int) -> Samples:
        spectrum = self._model.feature_extractor(clip)[:, : min(frames, clip.size // _HOP)]
        window = np.zeros((spectrum.shape[0], frames), np.float32)
        window[:, : spectrum.shape[1]] = spectrum
        return window

    def rate_languages(self, states: Samples) -> LanguageProbabilities:
        """Return each language's probability for encoder states, shape (1, frames / 2, width).

        Raises EngineFault.
        """
        if not states.shape[1]:  # CTranslate2 would abort the process
            return {}
        with label_phase(Phase.GENERATE):
            return self._network.rate_languages(states)

    def decode_batch(
        self,
        clips: Sequence[Clip],
        prompts: Sequence[tuple[int, ...]],
        plan: DecodingPlan,
        way: DecodingMethod,
        encoded: EncoderOutput | None = None,
    ) -> list[DecodedClip]:
        """Decode clips in one call of the model. Raises EngineFault.

        All clips have the same window length, and all prompts the same length, unless the decoder
        takes any; if words are aligned, `plan` has the language and task of all. `encoded`: the
        encoder's output for the same windows, if it exists already.
        """
        samples = [clip.samples for clip in clips]
        encoded = encoded or self.encode_clips(
            samples, [self.fit_window(len(of_clip), way) for of_clip in samples]
        )
        with label_phase(Phase.GENERATE):
            texts = self._network.decode_text(encoded, prompts, way)
        decoded = [
            self._build_hypothesis(text, clip, len(prompt))
            for text, clip, prompt in zip(texts, clips, prompts, strict=True)
        ]
        if any(map(plan.needs_alignment, clips)):
            return self._align_words(decoded, clips, plan, encoded)
        return decoded

    def _build_hypothesis(self, text: TokenText, clip: Clip, prompt: int) -> DecodedClip:
        """`prompt`: its number of tokens."""
        tokens = text.tokens
        stretches, _ = split_tokens(tokens, timestamp_begin=self._tokenizer.timestamp_begin)
        evidence = DecodeStatistics(
            text=self._tokenizer.decode(list(tokens)).strip(),
            tokens=sum(token < self._tokenizer.eot for token in tokens),
            speech_s=clip.speech_s,
            avg_logprob=text.score * len(tokens) / (len(tokens) + 1),
            no_speech_prob=text.no_speech_prob,
            cut_off=len(tokens) >= min(MAX_TEXT, MAX_TOKENS - prompt),
            passages=tuple(
                Passage(stretch.start, stretch.end, self._tokenizer.decode(list(stretch.tokens)))
                for stretch in stretches
            ),
            speech_end=clip.voiced[-1][1] if clip.voiced else None,
        )
        return DecodedClip(tokens, evidence, stretches)

    def _align_words(
        self,
        decoded: Sequence[DecodedClip],
        clips: Sequence[Clip],
        plan: DecodingPlan,
        encoded: EncoderOutput,
    ) -> list[DecodedClip]:
        """Return the clips with their words, aligned with `encoded`. Raises EngineFault."""
        frames = [
            min(max(clip.samples.size // _HOP, _LEAST_ALIGNED), FULL_WINDOW) for clip in clips
        ]
        tokenizer = self._model.create_tokenizer(plan.text_language)
        remaining = zip(decoded, frames, strict=True)
        aligned: list[DecodedClip] = []
        for states in encoded:
            texts, heard = zip(*islice(remaining, states.shape[0]), strict=True)
            with label_phase(Phase.ALIGN):
                words = align_words(
                    self._model.ctranslate2,
                    tokenizer,
                    states,
                    [text.stretches for text in texts],
                    start=plan.task,
                    frames=heard,
                )
            aligned += [replace(text, words=of) for text, of in zip(texts, words, strict=True)]
        return aligned

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
            self.decode_batch([clip], [self.build_prompt(plan, context)], plan, plan.way)[0],
        )

    def _decode_around_pause(
        self, clip: Clip, plan: DecodingPlan, context: str, first: DecodedClip
    ) -> RecognizedText | None:
        """If the text is incomplete, decode the parts before and after the longest pause.

        That is if the decoder skipped speech, or reached its token limit. None if this gives no
        more text.
        """
        pause = clip.longest_pause
        is_incomplete = is_sparse(first.evidence) or first.evidence.cut_off
        if not (plan.ladder and pause and is_incomplete):
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
        encode = cache(lambda frames: self.encode_clips([clip.samples], [frames]))
        for way in plan.ladder:
            if is_settled(evidence):
                break
            frames = self.fit_window(clip.samples.size, way)
            prompt = self.build_prompt(plan, context) if way.prompted else plan.start
            call = (frames, prompt, way.search)
            if call not in calls:  # the same call gives the same text
                calls.append(call)
                tried.extend(self.decode_batch([clip], [prompt], plan, way, encode(frames)))
                evidence.append(replace(tried[-1].evidence, context=context))
        return tried[choose_text(evidence)], len(tried) - 1

    def _build_segments(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: DecodedClip,
        plan: DecodingPlan,
        clip: Clip,
    ) -> tuple[Segment, ...]:
        found = (
            _build_segment(timed, hypothesis.evidence, plan, clip)
            for timed in self._find_times(stretches, hypothesis, plan, clip)
        )
        return tuple(segment for segment in found if segment.text.strip())

    def _find_times(
        self,
        stretches: Sequence[TokenSegment],
        hypothesis: DecodedClip,
        plan: DecodingPlan,
        clip: Clip,
    ) -> Iterator[TimedText]:
        """Yield the parts of the text: those between two timestamps, or else the sentences."""
        words = hypothesis.words or [()] * len(stretches)
        if not plan.has_timestamps:
            spoken = list(trim_to_speech(list(chain.from_iterable(words)), clip.voiced))
            for sentence in split_sentences(spoken):
                text = "".join(word.text for word in sentence)
                yield TimedText(sentence[0].start, sentence[-1].end, text, sentence)
            return
        for stretch, timed in zip(stretches, words, strict=True):
            text = self._tokenizer.decode(list(stretch.tokens))
            start, end = stretch.start, stretch.end
            if plan.words and timed:
                start, end = timed[0].start, timed[-1].end
            yield TimedText(start, end, text, timed)


def _build_segment(
    timed: TimedText, evidence: DecodeStatistics, plan: DecodingPlan, clip: Clip
) -> Segment:
    at = clip.start
    words = timed.words if plan.words or clip.has_several_speakers else ()
    return Segment(
        start=round(at + timed.start, 3),
        end=round(at + timed.end, 3),
        text=timed.text,
        confidence=compute_confidence(evidence.avg_logprob),
        avg_logprob=finite(evidence.avg_logprob),
        compression_ratio=finite(compute_compression_ratio(timed.text)),
        no_speech_prob=finite(evidence.no_speech_prob),
        channel=clip.channel,
        track=clip.track,
        language=plan.language,
        words=tuple(
            Word(round(at + w.start, 3), round(at + w.end, 3), w.text, w.probability) for w in words
        ),
    )
