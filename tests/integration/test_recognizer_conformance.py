"""The contract of every recognizer. A new engine is one more line in `FACTORIES`."""

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
from speakeasyd.engine.whisper.network import CALL_RULES, CTranslate2Network
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer
from speakeasyd.testing import ScriptedRecognizer
from tests.conftest import PATIENCE_S, REPOSITORY

SAMPLES = REPOSITORY / "speakeasyd" / "data" / "samples"
ROUNDING_S = 0.002  # seconds


def _load_whisper(tmp_path: Path) -> AnyRecognizer:
    spec = WorkerSpec("cpu", "int8", 1, 2, str(tmp_path), offline=True)
    return load_model("bundled", spec).recognizer


def _load_whisper_as_on_gpu(tmp_path: Path) -> AnyRecognizer:
    """Return a model that decodes as on a GPU: without timestamps, in few kinds of calls."""
    loaded = _load_whisper(tmp_path)
    assert isinstance(loaded, WhisperRecognizer)
    return WhisperRecognizer(loaded.model, CTranslate2Network(loaded.model), CALL_RULES["cuda"])


FACTORIES: Mapping[str, Callable[[Path], AnyRecognizer]] = {
    "scripted": lambda _: ScriptedRecognizer(),
    "scripted with languages": lambda _: ScriptedRecognizer(("de", "en", "fr")),
    "whisper": _load_whisper,
    "whisper as on a GPU": _load_whisper_as_on_gpu,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[pytest.mark.real] if "whisper" in name else [])
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
    return build_clip(speech)


def build_clip(samples: Samples, *, start: float = 0.0) -> Clip:
    return Clip(0, start, None, samples, voiced=((0.0, samples.size / SAMPLE_RATE),))


def recognize_clips(
    recognizer: AnyRecognizer, *clips: Clip, context: str = "", **options: object
) -> list[RecognizedText]:
    requests = [
        recognizer.prepare(clip, Options(**options), detect_language(recognizer), context)  # type: ignore[arg-type]
        for clip in clips
    ]
    return [hypothesis.settle_doubts() for hypothesis in recognizer.recognize_batch(requests)]


def detect_language(recognizer: AnyRecognizer) -> str:
    return "en" if "en" in recognizer.capabilities.languages else ""


def test_capabilities_are_declared(recognizer: AnyRecognizer) -> None:
    able = recognizer.capabilities
    assert able.languages
    assert able.detects_languages == (len(able.languages) > 1)
    assert "transcribe" in able.tasks
    assert able.tasks <= {"transcribe", "translate"}


def test_segments_are_inside_their_clip_with_a_confidence(
    recognizer: AnyRecognizer, clip: Clip
) -> None:
    [found] = recognize_clips(recognizer, clip)
    assert found.text.startswith(" ")
    before = clip.start
    for segment in found.segments:
        assert before - ROUNDING_S <= segment.start <= segment.end <= clip.end + ROUNDING_S
        assert segment.text.strip()
        assert segment.language == detect_language(recognizer)
        assert segment.confidence is not None
        assert 0 <= segment.confidence <= 1
        before = segment.start


def test_times_are_relative_to_the_file(recognizer: AnyRecognizer, speech: Samples) -> None:
    [first] = recognize_clips(recognizer, build_clip(speech))
    [later] = recognize_clips(recognizer, build_clip(speech, start=100.0))
    assert later.text == first.text
    assert list_times(later.segments) == pytest.approx(
        np.array(list_times(first.segments)) + 100, abs=ROUNDING_S
    )


def list_times(segments: tuple[Segment, ...]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def test_the_text_does_not_depend_on_the_batch(recognizer: AnyRecognizer, speech: Samples) -> None:
    first, second = build_clip(speech), build_clip(speech[::-1].copy())
    requests = [
        recognizer.prepare(clip, Options(), detect_language(recognizer)) for clip in (first, second)
    ]
    assert requests[0].batch_key == requests[1].batch_key
    together = recognize_clips(recognizer, first, second)
    assert together == [*recognize_clips(recognizer, first), *recognize_clips(recognizer, second)]


def test_results_are_reproducible(recognizer: AnyRecognizer, clip: Clip) -> None:
    assert recognize_clips(recognizer, clip) == recognize_clips(recognizer, clip)
    request = recognizer.prepare(clip, Options(), detect_language(recognizer))
    [hypothesis] = recognizer.recognize_batch([request])
    assert hypothesis.settle_doubts() == hypothesis.settle_doubts()


def test_several_threads_can_recognize(recognizer: AnyRecognizer, clip: Clip) -> None:
    [expected] = recognize_clips(recognizer, clip)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: recognize_clips(recognizer, clip), range(3)))
    assert found == [[expected]] * 3


def test_requests_have_batch_keys(recognizer: AnyRecognizer, speech: Samples) -> None:
    lengths = [
        recognizer.prepare(
            build_clip(np.zeros(seconds * SAMPLE_RATE, np.float32)), Options(), None
        ).batch_seconds
        for seconds in (1, 5, 15, 30)
    ]
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 30
    one, other = (
        recognizer.prepare(build_clip(sound), Options(), "en") for sound in (speech, -speech)
    )
    assert (one.batch_key, one.batch_seconds) == (other.batch_key, other.batch_seconds)
    assert hash(one.batch_key) == hash(other.batch_key)


def test_an_earlier_encoding_gives_the_same_text(recognizer: AnyRecognizer, clip: Clip) -> None:
    """The encoding does not need the language."""
    encoded = recognizer.encode([recognizer.prepare(clip, Options(), None)])
    request = recognizer.prepare(clip, Options(), detect_language(recognizer))
    [hypothesis] = recognizer.recognize_batch([request], encoded)
    assert [hypothesis.settle_doubts()] == recognize_clips(recognizer, clip)


def test_encodings_of_different_calls_can_be_decoded_together(
    recognizer: AnyRecognizer, speech: Samples
) -> None:
    clips = [build_clip(speech), build_clip(speech[::-1].copy()), build_clip(-speech)]
    unknown = [recognizer.prepare(clip, Options(), None) for clip in clips]
    second, third = recognizer.encode(unknown[1:])
    [first] = recognizer.encode(unknown[:1])
    requests = [recognizer.prepare(clip, Options(), detect_language(recognizer)) for clip in clips]
    found = recognizer.recognize_batch(requests, [first, second, third])
    assert [one.settle_doubts() for one in found] == recognize_clips(recognizer, *clips)


@pytest.mark.parametrize("level", [0.0, 0.1], ids=["silence", "noise"])
def test_audio_without_speech_gives_no_error(recognizer: AnyRecognizer, level: float) -> None:
    noise = np.random.default_rng(1).normal(size=5 * SAMPLE_RATE) * level
    clip = Clip(0, 0.0, None, noise.astype(np.float32))
    [found] = recognize_clips(recognizer, clip)
    assert all(0 <= s.start <= s.end <= clip.end + ROUNDING_S for s in found.segments)


@pytest.mark.parametrize("words", [False, True])
def test_the_shortest_clip_gives_no_error(recognizer: AnyRecognizer, words: bool) -> None:
    clip = build_clip(np.zeros(1, np.float32))
    if words and not recognizer.capabilities.word_times:
        pytest.skip("it has no times of words")
    [found] = recognize_clips(recognizer, clip, word_timestamps=words)
    assert all(0 <= s.start <= s.end <= clip.end + 0.04 for s in found.segments)


def test_words_have_times_on_request(recognizer: AnyRecognizer, clip: Clip) -> None:
    if not recognizer.capabilities.word_times:
        pytest.skip("it has no times of words")
    [plain] = recognize_clips(recognizer, clip)
    [timed] = recognize_clips(recognizer, clip, word_timestamps=True)
    assert not any(segment.words for segment in plain.segments)
    assert timed.text == plain.text
    for segment in timed.segments:
        assert "".join(word.text for word in segment.words) == segment.text
        for word in segment.words:
            assert clip.start <= word.start <= word.end <= clip.end + ROUNDING_S
            assert 0 <= word.probability <= 1


def test_context_and_prompts_are_accepted(recognizer: AnyRecognizer, clip: Clip) -> None:
    """Capabilities may declare that they are ignored."""
    [plain] = recognize_clips(recognizer, clip)
    [hinted] = recognize_clips(
        recognizer, clip, context=" We met at the harbour.", initial_prompt="Harbour Museum."
    )
    assert hinted.text
    assert recognizer.capabilities.prompts or hinted == plain


def test_languages_are_rated_for_clips_and_parts(
    recognizer: AnyRecognizer, speech: Samples
) -> None:
    able = recognizer.capabilities
    if not able.detects_languages:
        pytest.skip("it knows one language")
    [encoded] = recognizer.encode([recognizer.prepare(build_clip(speech), Options(), None)])
    [whole] = recognizer.rate_languages(encoded)
    parts = recognizer.rate_languages(encoded, [(0.0, 4.0), (4.0, 8.0)])
    assert len(parts) == 2
    assert recognizer.rate_languages(encoded, []) == []
    for found in [whole, *parts]:
        assert found.keys() <= able.languages
        assert sum(found.values()) == pytest.approx(1, abs=0.01)


class TaskRunner:
    """Runs tasks in a pipeline and keeps its reports."""

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
def test_the_pipeline_transcribes_a_file(
    recognizer: AnyRecognizer, options: dict[str, object]
) -> None:
    run = TaskRunner(recognizer)
    run.run(**options)
    [found] = [report for report in run.reports if isinstance(report, LanguageFound)]
    assert found.language in recognizer.capabilities.languages
    chunks = [report.chunk for report in run.reports if isinstance(report, ChunkDone)]
    assert chunks
    assert all(segment.text for chunk in chunks for segment in chunk.segments)
    assert isinstance(run.reports[-1], TaskDone)
