"""What every recognizer has to keep: the scripted one of the test kit, and Whisper on CTranslate2.

A new engine is one more line in `FACTORIES`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    LanguageFound,
    Report,
    SourceRef,
    Task,
    TaskDone,
    WorkerSpec,
)
from speakeasyd.domain.recognition import RecognizedText
from speakeasyd.domain.transcript import Segment
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import Pipeline
from speakeasyd.engine.recognizer import AnyRecognizer
from speakeasyd.testing import ScriptedRecognizer
from tests.conftest import PATIENCE_S, REPOSITORY

SAMPLES = REPOSITORY / "speakeasyd" / "data" / "samples"
ROUNDING_S = 0.002  # seconds


def _load_whisper(tmp_path: Path) -> AnyRecognizer:
    spec = WorkerSpec("cpu", "int8", 1, 2, str(tmp_path), offline=True)
    return load_model("bundled", spec).recognizer


FACTORIES: Mapping[str, Callable[[Path], AnyRecognizer]] = {
    "scripted": lambda _: ScriptedRecognizer(),
    "scripted with languages": lambda _: ScriptedRecognizer(("de", "en", "fr")),
    "whisper": _load_whisper,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.real] if name == "whisper" else [])
        for name in FACTORIES
    ],
)
def recognizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyRecognizer]:
    made = FACTORIES[request.param](tmp_path_factory.mktemp("recognizer"))
    yield made
    made.free()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Ten seconds of speech, mono."""
    with MediaFile(str(SAMPLES / "voice_memo.flac")) as source:
        sound = np.concatenate([block[0] for block in Audio(source).blocks()])
    return sound[: 10 * SAMPLE_RATE]


@pytest.fixture
def clip(speech: Samples) -> Clip:
    return a_clip(speech)


def a_clip(samples: Samples, *, start: float = 0.0) -> Clip:
    return Clip(0, start, None, samples, voiced=((0.0, samples.size / SAMPLE_RATE),))


def recognize(
    recognizer: AnyRecognizer, *clips: Clip, said: str = "", **options: object
) -> list[RecognizedText]:
    requests = [
        recognizer.prepare(clip, Options(**options), language_of(recognizer), said)  # type: ignore[arg-type]
        for clip in clips
    ]
    return [hypothesis.settle_doubts() for hypothesis in recognizer.recognize_batch(requests)]


def language_of(recognizer: AnyRecognizer) -> str:
    return "en" if "en" in recognizer.capabilities.languages else ""


def test_it_says_what_it_can(recognizer: AnyRecognizer) -> None:
    able = recognizer.capabilities
    assert able.languages
    assert able.detects_languages == (len(able.languages) > 1)
    assert "transcribe" in able.tasks
    assert able.tasks <= {"transcribe", "translate"}


def test_segments_lie_in_their_clip_and_have_a_confidence(
    recognizer: AnyRecognizer, clip: Clip
) -> None:
    [found] = recognize(recognizer, clip)
    assert found.text.startswith(" ")
    before = clip.start
    for segment in found.segments:
        assert before - ROUNDING_S <= segment.start <= segment.end <= clip.end + ROUNDING_S
        assert segment.text.strip()
        assert segment.language == language_of(recognizer)
        assert segment.confidence is not None
        assert 0 <= segment.confidence <= 1
        before = segment.start


def test_times_are_those_of_the_file(recognizer: AnyRecognizer, speech: Samples) -> None:
    [here] = recognize(recognizer, a_clip(speech))
    [later] = recognize(recognizer, a_clip(speech, start=100.0))
    assert later.text == here.text
    assert spans(later.segments) == pytest.approx(
        np.array(spans(here.segments)) + 100, abs=ROUNDING_S
    )


def spans(segments: tuple[Segment, ...]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def test_the_text_does_not_depend_on_the_batch(recognizer: AnyRecognizer, speech: Samples) -> None:
    first, second = a_clip(speech), a_clip(speech[::-1].copy())
    requests = [
        recognizer.prepare(clip, Options(), language_of(recognizer)) for clip in (first, second)
    ]
    assert requests[0].batch_key == requests[1].batch_key
    together = recognize(recognizer, first, second)
    assert together == [*recognize(recognizer, first), *recognize(recognizer, second)]


def test_a_text_is_the_same_every_time(recognizer: AnyRecognizer, clip: Clip) -> None:
    assert recognize(recognizer, clip) == recognize(recognizer, clip)
    request = recognizer.prepare(clip, Options(), language_of(recognizer))
    [hypothesis] = recognizer.recognize_batch([request])
    assert hypothesis.settle_doubts() == hypothesis.settle_doubts()


def test_several_threads_can_use_it(recognizer: AnyRecognizer, clip: Clip) -> None:
    [expected] = recognize(recognizer, clip)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: recognize(recognizer, clip), range(3)))
    assert found == [[expected]] * 3


def test_requests_tell_how_they_share_a_call(recognizer: AnyRecognizer, speech: Samples) -> None:
    lengths = [
        recognizer.prepare(
            a_clip(np.zeros(seconds * SAMPLE_RATE, np.float32)), Options(), None
        ).batch_seconds
        for seconds in (1, 5, 15, 30)
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 30
    one, other = (recognizer.prepare(a_clip(sound), Options(), "en") for sound in (speech, -speech))
    assert (one.batch_key, one.batch_seconds) == (other.batch_key, other.batch_seconds)
    assert hash(one.batch_key) == hash(other.batch_key)


def test_what_was_encoded_before_gives_the_same_text(recognizer: AnyRecognizer, clip: Clip) -> None:
    """The language need not be known for it."""
    encoded = recognizer.encode([recognizer.prepare(clip, Options(), None)])
    assert isinstance(encoded.in_host_memory, bool)
    request = recognizer.prepare(clip, Options(), language_of(recognizer))
    [hypothesis] = recognizer.recognize_batch([request], encoded)
    assert [hypothesis.settle_doubts()] == recognize(recognizer, clip)


@pytest.mark.parametrize("level", [0.0, 0.1], ids=["silence", "noise"])
def test_what_is_not_speech_is_no_error(recognizer: AnyRecognizer, level: float) -> None:
    noise = np.random.default_rng(1).normal(size=5 * SAMPLE_RATE) * level
    clip = Clip(0, 0.0, None, noise.astype(np.float32))
    [found] = recognize(recognizer, clip)
    assert all(0 <= s.start <= s.end <= clip.end + ROUNDING_S for s in found.segments)


def test_words_are_timed_if_asked_for(recognizer: AnyRecognizer, clip: Clip) -> None:
    if not recognizer.capabilities.word_times:
        pytest.skip("it has no times of words")
    [plain] = recognize(recognizer, clip)
    [timed] = recognize(recognizer, clip, word_timestamps=True)
    assert not any(segment.words for segment in plain.segments)
    assert timed.text == plain.text
    for segment in timed.segments:
        assert "".join(word.text for word in segment.words) == segment.text
        for word in segment.words:
            assert clip.start <= word.start <= word.end <= clip.end + ROUNDING_S
            assert 0 <= word.probability <= 1


def test_context_and_hints_are_taken(recognizer: AnyRecognizer, clip: Clip) -> None:
    """They may be ignored, if the capabilities say so."""
    [plain] = recognize(recognizer, clip)
    [hinted] = recognize(
        recognizer, clip, said=" We met at the harbour.", initial_prompt="Harbour Museum."
    )
    assert hinted.text
    assert recognizer.capabilities.prompts or hinted == plain


def test_languages_are_rated_for_clips_and_stretches(
    recognizer: AnyRecognizer, speech: Samples
) -> None:
    able = recognizer.capabilities
    if not able.detects_languages:
        pytest.skip("it knows one language")
    requests = [recognizer.prepare(a_clip(sound), Options(), None) for sound in (speech, speech)]
    encoded = recognizer.encode(requests)
    whole = recognizer.rate_languages(encoded)
    assert [len(of_clip) for of_clip in whole] == [1, 1]
    [first, second] = recognizer.rate_languages(encoded, [[(0.0, 4.0), (4.0, 8.0)], []])
    assert (len(first), len(second)) == (2, 0)
    for found in [*whole[0], *first]:
        assert found.keys() <= able.languages
        assert sum(found.values()) == pytest.approx(1, abs=0.01)


class EveryTask:
    """Runs tasks through a pipeline and keeps its reports."""

    def __init__(self, recognizer: AnyRecognizer) -> None:
        self.reports: list[Report] = []
        self._over = threading.Event()
        self.pipeline = Pipeline(
            recognizer=recognizer,
            replicas=2,
            batch_size=2,
            readers=2,
            folders={"samples": str(SAMPLES)},
            send=self._keep_report,
            on_fault=lambda fault, _: pytest.fail(str(fault)),
            on_idle=self._over.set,
        )

    def _keep_report(self, report: Report) -> None:
        self.reports.append(report)

    def run(self, **options: object) -> None:
        source = SourceRef("samples", b"voice_memo.flac")
        self.pipeline.submit(
            Task(JobId(1), Token("t"), source, Options(**options), None)  # type: ignore[arg-type]
        )
        assert self._over.wait(PATIENCE_S)
        self.pipeline.stop()


@pytest.mark.parametrize("options", [{}, {"word_timestamps": True}, {"speakers": 2}], ids=str)
def test_the_pipeline_transcribes_a_file_with_it(
    recognizer: AnyRecognizer, options: dict[str, object]
) -> None:
    run = EveryTask(recognizer)
    run.run(**options)
    [found] = [report for report in run.reports if isinstance(report, LanguageFound)]
    assert found.language in recognizer.capabilities.languages
    chunks = [report.chunk for report in run.reports if isinstance(report, ChunkDone)]
    assert chunks
    assert all(segment.text for chunk in chunks for segment in chunk.segments)
    assert isinstance(run.reports[-1], TaskDone)
