"""The calls of the model for a batch whose clips turn out to have different languages."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.batch_choice import ChunkWork
from speakeasyd.engine.batch_transcriber import BatchTranscriber
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.testing import ScriptedHypothesis, ScriptedRecognizer, ScriptedRequest

LEVELS = {"de": 0.3, "en": 0.1, "fr": 0.2}
"""The loudness that the scripted recognizer takes for each language."""


class CountingRecognizer(ScriptedRecognizer):
    def __init__(self) -> None:
        super().__init__(tuple(LEVELS))
        self.encoded: list[int] = []  # indices of clips
        self.calls: list[list[str | None]] = []  # languages of the clips
        self.contexts: list[str] = []

    def encode(self, requests: Sequence[ScriptedRequest]) -> list[Clip]:
        self.encoded += [request.clip.index for request in requests]
        return super().encode(requests)

    def recognize_batch(
        self, requests: Sequence[ScriptedRequest], encoded: Sequence[Clip] | None = None
    ) -> list[ScriptedHypothesis]:
        self.calls.append([request.language for request in requests])
        self.contexts += [request.context for request in requests]
        return super().recognize_batch(requests, encoded)


def build_samples(*languages: str) -> Samples:
    """Return eight seconds of speech, divided among the languages."""
    length = 8 * SAMPLE_RATE // len(languages)
    return np.concatenate([np.full(length, LEVELS[code], np.float32) for code in languages])


def build_batch(recognizer: CountingRecognizer, *sounds: Samples, detects: bool) -> list[ChunkWork]:
    """Return a batch of independent clips of one job that are expected to be English."""
    task = Task(JobId(1), Token("t"), SourceRef("in", "talk.wav"), Options(), language=None)
    job = PipelineJob(task, iter(()), "en", texts={}, detects=detects)  # type: ignore[arg-type]
    clips = [
        Clip(index, 10.0 * index, None, samples, voiced=((0.0, 3.5), (4.5, 8.0)))
        for index, samples in enumerate(sounds)
    ]
    return [ChunkWork(job, recognizer.prepare(clip, Options(), "en")) for clip in clips]


def transcribe(recognizer: CountingRecognizer, batch: Sequence[ChunkWork]) -> dict[int, str | None]:
    """Return the language at the end of each chunk, by index."""
    transcriber = BatchTranscriber(recognizer, threading.Condition())
    return {chunk.index: chunk.language for _, chunk in transcriber.transcribe_batch(batch)}


def test_clips_of_other_languages_leave_the_others_in_one_call() -> None:
    recognizer = CountingRecognizer()
    sounds = [build_samples(*codes) for codes in (("en",), ("en", "de"), ("fr",), ("en",))]
    batch = build_batch(recognizer, *sounds, detects=True)
    assert transcribe(recognizer, batch) == {0: "en", 1: "de", 2: "fr", 3: "en"}
    assert recognizer.calls == [["en", "fr", "en"], ["en"], ["de"]]


def test_what_was_encoded_to_find_the_language_is_used_in_any_batch() -> None:
    recognizer = CountingRecognizer()
    batch = build_batch(recognizer, *[build_samples("en")] * 3, detects=True)
    batch[1].job.encoded[1] = batch[1].clip
    assert transcribe(recognizer, batch) == dict.fromkeys(range(3), "en")
    assert recognizer.encoded == [0, 2]
    assert recognizer.calls == [["en"] * 3]
    assert batch[1].job.encoded == {}


def test_clips_that_cannot_share_a_call_are_called_apart() -> None:
    recognizer = CountingRecognizer()
    short, long = build_samples("en"), build_samples("fr", "fr", "fr", "fr").repeat(2)
    batch = build_batch(recognizer, short, long, short, detects=True)
    assert transcribe(recognizer, batch) == {0: "en", 1: "fr", 2: "en"}
    assert recognizer.calls == [["en", "en"], ["fr"]]


def test_a_clip_with_an_unclear_language_is_put_back_with_its_encoding() -> None:
    recognizer = CountingRecognizer()
    first, second = build_batch(
        recognizer, build_samples("en"), build_samples("fr")[:SAMPLE_RATE], detects=True
    )
    clip = replace(second.clip, follows=0, voiced=((0.0, 1.0),))
    unclear = ChunkWork(second.job, recognizer.prepare(clip, Options(), "en"))
    job = first.job
    job.in_flight = {0, 1}
    assert transcribe(recognizer, [unclear]) == {}
    assert (job.waiting, job.encoded, job.in_flight) == ([clip], {1: clip}, {0})
    assert recognizer.calls == []
    assert transcribe(recognizer, [first]) == {0: "en"}
    assert transcribe(recognizer, [unclear]) == {1: "en"}
    assert recognizer.encoded == [1, 0]


def test_each_part_of_a_clip_has_the_text_before_in_its_language_as_context() -> None:
    recognizer = CountingRecognizer()
    [work] = build_batch(recognizer, build_samples("en", "de"), detects=True)
    clip = replace(work.clip, index=2, leans_on=(0, 1))
    work.job.texts, work.job.languages = {0: " before", 1: " davor"}, {0: "en", 1: "de"}
    again = ChunkWork(work.job, recognizer.prepare(clip, Options(), "en"))
    assert transcribe(recognizer, [again]) == {2: "de"}
    assert recognizer.calls == [["en"], ["de"]]
    assert recognizer.contexts == [" before", " davor"]


def test_a_fixed_language_needs_no_encoding_before_the_call() -> None:
    recognizer = CountingRecognizer()
    batch = build_batch(recognizer, *[build_samples("fr")] * 2, detects=False)
    assert transcribe(recognizer, batch) == dict.fromkeys(range(2), "en")
    assert (recognizer.encoded, recognizer.calls) == ([], [["en"] * 2])
