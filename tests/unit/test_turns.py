"""Language turns inside a chunk, and the context from earlier chunks."""

import numpy as np
import pytest

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.languages import LanguageEvidence
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.engine.audio import SAMPLE_RATE
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.language import LanguageTurn, Piece, divide_clip, join_turns
from speakeasyd.engine.pipeline_job import PipelineJob


def build_clip(index: int = 0, seconds: float = 20.0, **changes: object) -> Clip:
    samples = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    return Clip(index, 0.0, None, samples, **changes)  # type: ignore[arg-type]


def build_text(start: float, end: float, language: str) -> Piece:
    probabilities = {"de": 0.01, "en": 0.01} | {language: 0.98}
    return Piece(start, end, LanguageEvidence(end - start, probabilities))


@pytest.mark.parametrize(
    ("voiced", "expected"),
    [
        ((), [(0.0, 10.0), (10.0, 20.0)]),  # without voice detection
        (((1.0, 3.0),), [(1.0, 3.0)]),
        (((1.0, 3.0), (3.2, 6.0), (6.1, 8.0)), [(1.0, 6.0), (6.1, 8.0)]),  # short pauses
        (((1.0, 3.0), (4.0, 6.0)), [(1.0, 3.0), (4.0, 6.0)]),  # a long pause
        (((1.0, 1.5), (4.0, 6.0)), [(1.0, 6.0)]),  # too little speech before the pause
        (((0.0, 18.0),), [(0.0, 9.0), (9.0, 18.0)]),  # no pause
    ],
)
def test_a_clip_is_divided_at_pauses(
    voiced: tuple[tuple[float, float], ...], expected: list[tuple[float, float]]
) -> None:
    found = [(start, end) for start, end, _ in divide_clip(build_clip(voiced=voiced))]
    assert found == expected


def test_turns_cover_the_clip_and_change_in_pauses() -> None:
    pieces = [build_text(0.5, 6.0, "de"), build_text(6.2, 11.0, "de"), build_text(12.0, 19.0, "en")]
    assert join_turns(build_clip(), pieces, "de") == [
        LanguageTurn(0.0, 11.5, "de"),
        LanguageTurn(11.5, 20.0, "en"),
    ]
    assert join_turns(build_clip(), pieces[:2], "en") == [LanguageTurn(0.0, 20.0, "de")]


def build_job_context(**changes: object) -> PipelineJob:
    task = Task(JobId(1), Token("mine"), SourceRef("in", b"a.wav"), Options(), None)
    return PipelineJob(task, iter(()), **({"language": None, "texts": {}} | changes))  # type: ignore[arg-type]


def test_the_context_is_text_in_the_same_language() -> None:
    job = build_job_context(languages={0: "de", 1: "en", 2: "de"})
    job.texts.update({0: " eins", 1: " two", 2: " drei"})
    clip = build_clip(3, leans_on=(0, 1, 2))
    assert job.context_before(clip, "de") == " eins drei"
    assert job.context_before(clip, "en") == " two"
    assert job.context_before(clip, "fr") == ""


def test_an_earlier_language_is_awaited_only_if_it_can_come() -> None:
    job = build_job_context(language="de")
    first, second, third = (build_clip(n, follows=n - 1 if n else None) for n in range(3))
    assert job.language_before(first) == "de"  # the file's first language
    job.waiting = [first, second, third]
    assert job.language_before(second) is None
    job.languages[0] = "en"
    assert job.language_before(second) == "en"
    assert job.language_before(third) is None
    job.waiting = [third]  # the second was abandoned
    assert job.language_before(third) == "en"
    job.in_flight = {1}
    assert job.language_before(third) is None


def test_a_dependent_chunk_waits_for_the_one_before() -> None:
    job = build_job_context(language="de")
    before, clip = build_clip(0), build_clip(1, follows=0)
    job.waiting = [before, clip]
    assert job.can_decode(clip)
    job.unclear[1] = [build_text(0.0, 1.0, "en")]
    assert not job.can_decode(clip)
    job.languages[0] = "en"
    assert job.can_decode(clip)
