"""The choice of clips for a call: each is prepared once, as long as its language and context stay."""

from dataclasses import replace

import numpy as np

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.batch_choice import BatchChooser, ChunkWork
from speakeasyd.engine.clips import Clip, EndOfFile
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.recognizer import Request
from speakeasyd.testing import ScriptedRecognizer


class CountingRecognizer(ScriptedRecognizer):
    def __init__(self) -> None:
        super().__init__(("de", "en"))
        self.prepared: list[tuple[int, str | None]] = []

    def prepare(
        self, clip: Clip, options: Options, language: str | None, context: str = ""
    ) -> Request:
        self.prepared.append((clip.index, language))
        return super().prepare(clip, options, language, context)


def read_job(
    number: int, *seconds: float, language: str | None = None, priority: int = 0
) -> PipelineJob:
    """Return a job with independent clips of these lengths, read to its end."""
    options = Options(priority=priority)
    task = Task(JobId(number), Token("t"), SourceRef("in", "talk.wav"), options, language=None)
    job = PipelineJob(task, iter(()), language, texts={}, detects=True)  # type: ignore[arg-type]
    job.waiting = [
        Clip(index, 0.0, None, np.zeros(round(length * SAMPLE_RATE), np.float32))
        for index, length in enumerate(seconds)
    ]
    job.finished = EndOfFile(sum(seconds))
    return job


def build_job(clips: int) -> PipelineJob:
    """Return an English job with clips of 20 s, each of which follows the one before."""
    job = read_job(1, *[20.0] * clips, language="en")
    job.waiting = [
        replace(clip, start=20.0 * clip.index, follows=clip.index - 1 if clip.index else None)
        for clip in job.waiting
    ]
    return job


def take_batch(chooser: BatchChooser, *jobs: PipelineJob) -> list[ChunkWork]:
    batch = chooser.take_work(jobs, callers=1)
    assert isinstance(batch, list)
    assert all(isinstance(work, ChunkWork) for work in batch)
    return batch


def take_indices(chooser: BatchChooser, job: PipelineJob) -> list[int]:
    return [work.clip.index for work in take_batch(chooser, job)]


def test_a_clip_is_prepared_once_however_often_it_is_looked_at() -> None:
    recognizer, job = CountingRecognizer(), build_job(6)
    chooser = BatchChooser(recognizer, 1)
    taken = [take_indices(chooser, job) for _ in range(6)]
    assert taken == [[index] for index in range(6)]
    assert sorted(recognizer.prepared) == [(index, "en") for index in range(6)]
    assert job.prepared == {}  # nothing is kept of clips that were taken


def test_a_clip_is_prepared_again_when_the_language_before_it_is_found() -> None:
    recognizer, job = CountingRecognizer(), build_job(3)
    chooser = BatchChooser(recognizer, 1)
    assert take_indices(chooser, job) == [0]
    job.languages[0] = "de"
    assert take_indices(chooser, job) == [1]
    assert recognizer.prepared[3:] == [(1, "de")]


def test_languages_are_detected_until_the_next_call_is_full() -> None:
    jobs = [read_job(number, 10.0) for number in range(5)]
    chooser = BatchChooser(CountingRecognizer(), 1)
    for number in range(3):  # a call has room for three clips of 10 s
        assert chooser.take_work(jobs, callers=1) is jobs[number]
        jobs[number].language, jobs[number].probing = "en", False
    assert [work.job for work in take_batch(chooser, *jobs)] == jobs[:3]
    assert chooser.take_work(jobs, callers=1) is jobs[3]


def test_an_urgent_file_does_not_wait_for_the_languages_of_others() -> None:
    urgent, unknown = read_job(2, 5.0, language="en", priority=1), read_job(1, 5.0)
    batch = take_batch(BatchChooser(CountingRecognizer(), 1), unknown, urgent)
    assert [work.job for work in batch] == [urgent]


def test_what_was_encoded_of_an_unwanted_clip_is_not_kept() -> None:
    job = read_job(1, 5.0, 5.0, language="en")
    job.waiting[0] = replace(job.waiting[0], wanted=False)
    job.encoded = {clip.index: clip for clip in job.waiting}
    job.leave_out_unwanted()
    assert list(job.encoded) == [1]


def test_a_full_call_does_not_wait_for_the_languages_of_later_files() -> None:
    known, unknown = read_job(1, 10.0, 10.0, 10.0, language="en"), read_job(2, 10.0)
    batch = take_batch(BatchChooser(CountingRecognizer(), 1), known, unknown)
    assert [work.job for work in batch] == [known] * 3


def test_a_call_does_not_wait_for_a_language_that_another_replica_detects() -> None:
    known, unknown = read_job(1, 10.0, language="en"), read_job(2, 10.0)
    unknown.probing = True
    batch = take_batch(BatchChooser(CountingRecognizer(), 1), known, unknown)
    assert [work.job for work in batch] == [known]


def test_a_clip_that_is_put_back_keeps_its_place() -> None:
    job = build_job(3)
    chooser = BatchChooser(CountingRecognizer(), 1)
    [first] = job.waiting[:1]
    assert take_indices(chooser, job) == [0]
    assert (job.in_flight, job.served) == ({0}, 20.0)
    job.put_back(first, None)
    assert (job.in_flight, job.served) == (set(), 0.0)
    assert take_indices(chooser, job) == [0]
