"""Which file is read on, and how far ahead of what is computed."""

import numpy as np

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.clips import Clip, EndOfFile
from speakeasyd.engine.pipeline_job import PipelineJob
from speakeasyd.engine.read_choice import choose_job_to_read

AHEAD_S = 100.0


def build_job(
    number: int, ahead_s: float, *, being_read: bool = False, finished: bool = False
) -> PipelineJob:
    """Return a job in the order of its number, with clips of 5 s waiting."""
    task = Task(JobId(number), Token("t"), SourceRef("in", "a.wav"), Options(), "en")
    job = PipelineJob(task, iter(()), "en", texts={}, being_read=being_read)  # type: ignore[arg-type]
    samples = np.zeros(5 * SAMPLE_RATE, np.float32)
    job.waiting = [Clip(index, 0.0, None, samples) for index in range(round(ahead_s / 5))]
    job.finished = EndOfFile(ahead_s) if finished else None
    return job


def choose(*jobs: PipelineJob) -> int | None:
    chosen = choose_job_to_read(jobs, ahead_s=AHEAD_S)
    return chosen.task.job_id if chosen else None


def test_the_first_file_is_read_first() -> None:
    assert choose(build_job(2, 0), build_job(1, 50)) == 1


def test_another_reader_reads_the_next_file() -> None:
    assert choose(build_job(1, 50, being_read=True), build_job(2, 20)) == 2


def test_most_of_what_is_read_ahead_is_for_the_first_file() -> None:
    first = build_job(1, 50, being_read=True)
    assert choose(first, build_job(2, 25), build_job(3, 5)) is None
    assert choose(build_job(1, 50), build_job(2, 25)) == 1


def test_a_file_that_is_read_slowly_keeps_nothing_for_itself() -> None:
    slow = build_job(1, 0, being_read=True)
    assert choose(slow, build_job(2, 50), build_job(3, 45)) == 2
    assert choose(slow, build_job(2, 50), build_job(3, 50)) is None


def test_short_files_are_read_as_far_as_there_is_room() -> None:
    short = [build_job(number, 10, finished=True) for number in range(2, 6)]
    assert choose(build_job(1, 50, being_read=True), *short, build_job(6, 5)) == 6
    assert choose(*short, build_job(6, 50)) == 6
    assert choose(*short, build_job(6, 60)) is None


def test_a_file_without_clips_is_read_even_if_there_is_no_room() -> None:
    assert choose(build_job(1, 100), build_job(2, 0)) == 2


def test_nothing_is_left_to_read() -> None:
    assert choose(build_job(1, 10, finished=True), build_job(2, 0, being_read=True)) is None
