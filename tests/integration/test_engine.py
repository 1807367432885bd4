"""The engine on real speech with the bundled model: correct text, independent of interruptions."""

import itertools
import multiprocessing
import os
import re
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Drain,
    Drained,
    Fault,
    Hello,
    LanguageFound,
    Loaded,
    Loading,
    Opened,
    Report,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.sentences import LONGEST_S
from speakeasyd.domain.transcript import Chunk
from speakeasyd.domain.worker_exit import EXIT_FAULT, EXIT_ORPHAN
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Samples
from speakeasyd.engine.clips import Clip
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import Model, load_model
from speakeasyd.engine.pipeline import Pipeline
from speakeasyd.engine.whisper import decoding
from speakeasyd.engine.whisper.network import CALL_RULES, CTranslate2Network
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer
from speakeasyd.engine.worker_host import serve_requests
from speakeasyd.errors import ErrorCode
from tests.conftest import PATIENCE_S
from tests.sources import AllFolders, build_source_ref

pytestmark = pytest.mark.real

SAMPLES = Path(str(files("speakeasyd") / "data" / "samples"))
SPOKEN = ("meeting", "voice_memo", "answering_machine", "voice_memo", "meeting", "voice_memo")


def build_spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(
        device="cpu",
        compute_type="auto",
        replicas=2,
        batch_size=0,
        state_dir=str(folder),
        offline=True,
        folders=AllFolders(),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model("bundled", build_spec(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, with seven seconds of silence between them."""
    silence = np.zeros((1, 7 * SAMPLE_RATE), np.float32)
    sound = np.concatenate(
        [part for name in SPOKEN for part in (read_samples(name), silence)], axis=1
    )
    return write_wav(tmp_path_factory.mktemp("audio") / "conversation.wav", sound)


def read_samples(name: str) -> Samples:
    with MediaFile(str(SAMPLES / f"{name}.flac")) as source:
        return np.concatenate(list(Audio(source).blocks()), axis=1)


def write_wav(path: Path, sound: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[0])
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound.T * 32767).astype("<i2").tobytes())
    return path


@dataclass
class PipelineRun:
    """A pipeline, and the reports that it sent."""

    model: Model
    replicas: int = 2
    batch_size: int = 1
    readers: int = 2
    reports: list[Report] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self.pipeline = Pipeline(
            recognizer=self.model.recognizer,
            replicas=self.replicas,
            batch_size=self.batch_size,
            readers=self.readers,
            folders=AllFolders(),
            send=self._record_report,
            on_fault=lambda fault, _: pytest.fail(str(fault)),
            on_idle=lambda: None,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.pipeline.stop()

    def _record_report(self, report: Report) -> None:
        with self.changed:
            self.reports.append(report)
            self.changed.notify_all()

    def wait_for(self, what: Callable[[list[Report]], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: what(self.reports), PATIENCE_S), self.reports[-5:]

    def finish(self, *tasks: Task) -> None:
        for task in tasks:
            self.pipeline.submit(task)
        self.wait_for(
            lambda reports: sum(isinstance(r, TaskDone | TaskFailed) for r in reports) >= len(tasks)
        )

    def build_chunks(self, job_id: int = 1) -> list[Chunk]:
        """Return the chunks as they would be read from the ledger, without compute times."""
        found = [r.chunk for r in self.reports if isinstance(r, ChunkDone) and r.job_id == job_id]
        return [
            replace(chunk, compute_s=0.0) for chunk in sorted(found, key=lambda chunk: chunk.index)
        ]

    def list_reports(self, kind: type) -> list[Report]:
        return [report for report in self.reports if isinstance(report, kind)]


def build_task(path: Path, job_id: int = 1, **changes: object) -> Task:
    options = Options.model_validate(changes.pop("options", {}))
    plain = Task(JobId(job_id), Token("mine"), build_source_ref(path), options, None)
    return replace(plain, **changes)  # type: ignore[arg-type]


def transcribe_file(model: Model, *tasks: Task, **how: int) -> PipelineRun:
    with PipelineRun(model, **how) as run:
        run.finish(*tasks)
    return run


def join_text(chunks: Sequence[Chunk]) -> str:
    return "".join(segment.text for chunk in chunks for segment in chunk.segments).strip()


def join_lowercase_text(chunks: Sequence[Chunk]) -> dict[int, str]:
    return {chunk.index: "".join(segment.text for segment in chunk.segments) for chunk in chunks}


@pytest.fixture(scope="module")
def expected_chunks(model: Model, conversation: Path) -> list[Chunk]:
    return transcribe_file(model, build_task(conversation)).build_chunks()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("meeting", "today we talk about"),
        ("voice_memo", "call the dentist on monday morning"),
        ("answering_machine", "please leave your name and your telephone number after the tone"),
    ],
)
def test_the_samples_are_transcribed(model: Model, name: str, words: str) -> None:
    run = transcribe_file(model, build_task(SAMPLES / f"{name}.flac"))
    assert (
        words in join_text(run.build_chunks()).lower()
    )  # upper case depends on the processor's instructions
    (done,) = run.list_reports(TaskDone)
    assert isinstance(done, TaskDone)
    assert done.warnings == ()
    assert done.audio_seconds == pytest.approx(read_samples(name).shape[1] / SAMPLE_RATE)


def test_reports_come_in_order(model: Model) -> None:
    reports = transcribe_file(model, build_task(SAMPLES / "voice_memo.flac")).reports
    kinds = [type(report) for report in reports if not isinstance(report, LanguageFound)]
    assert kinds == [Opened, ChunkStarted, ChunkDone, TaskDone]
    assert [r.language for r in reports if isinstance(r, LanguageFound)] == ["en"]


def test_segments_are_ordered_and_inside_their_chunk(expected_chunks: list[Chunk]) -> None:
    assert [chunk.index for chunk in expected_chunks] == list(range(len(SPOKEN)))
    for chunk in expected_chunks:
        times = [time for segment in chunk.segments for time in (segment.start, segment.end)]
        assert times == sorted(times)
        assert chunk.start <= times[0] <= times[-1] <= chunk.end + 0.001
        assert chunk.end - chunk.start <= 30


@pytest.mark.parametrize("done", [{0}, {0, 1, 2}, {1, 4}])
def test_a_restart_gives_the_same_text(
    model: Model, conversation: Path, expected_chunks: list[Chunk], done: set[int]
) -> None:
    committed = [chunk for chunk in expected_chunks if chunk.index in done]
    again = transcribe_file(
        model, build_task(conversation, skip=frozenset(done), texts=join_lowercase_text(committed))
    ).build_chunks()
    assert again == [chunk for chunk in expected_chunks if chunk.index not in done]


@pytest.mark.parametrize("settings", [{"replicas": 1}, {"batch_size": 4}], ids=str)
def test_the_text_does_not_depend_on_replicas_and_batches(
    model: Model, conversation: Path, expected_chunks: list[Chunk], settings: dict[str, int]
) -> None:
    others = [build_task(SAMPLES / "meeting.flac", job_id) for job_id in (2, 3)]
    run = transcribe_file(model, build_task(conversation), *others, **settings)
    assert run.build_chunks() == expected_chunks


def test_only_requested_chunks_are_processed(
    model: Model, conversation: Path, expected_chunks: list[Chunk]
) -> None:
    run = transcribe_file(model, build_task(conversation, only=frozenset({4})))
    assert run.build_chunks() == [expected_chunks[4]]
    assert len(run.list_reports(ChunkStarted)) == 1


def test_an_abandoned_chunk_delays_nothing(model: Model, conversation: Path) -> None:
    run = transcribe_file(model, build_task(conversation, skip=frozenset({1})))
    assert [chunk.index for chunk in run.build_chunks()] == [0, 2, 3, 4, 5]


def test_clips_of_several_files_share_a_batch(model: Model) -> None:
    tasks = [build_task(SAMPLES / "voice_memo.flac", job_id) for job_id in range(1, 5)]
    run = transcribe_file(model, *tasks, batch_size=4, replicas=1)
    texts = {join_text(run.build_chunks(job_id)) for job_id in range(1, 5)}
    assert len(texts) == 1
    assert "dentist" in texts.pop()


def test_a_short_file_does_not_wait_for_a_long_one(model: Model, conversation: Path) -> None:
    with PipelineRun(model) as run:
        run.pipeline.submit(build_task(conversation, 1))
        run.wait_for(lambda reports: any(isinstance(r, ChunkStarted) for r in reports))
        run.finish(build_task(SAMPLES / "voice_memo.flac", 2))
        run.wait_for(lambda reports: sum(isinstance(r, TaskDone) for r in reports) == 2)
    assert [r.job_id for r in run.reports if isinstance(r, TaskDone)] == [2, 1]


def test_files_of_equal_length_finish_in_order(model: Model, conversation: Path) -> None:
    with PipelineRun(
        model, replicas=1, readers=1
    ) as run:  # two readers may open the second file first
        for job_id in (1, 2, 3):
            run.pipeline.submit(build_task(conversation, job_id))
        run.wait_for(lambda reports: sum(isinstance(r, TaskDone) for r in reports) == 3)
    done = [r.job_id for r in run.reports if isinstance(r, ChunkDone)]
    assert done == sorted(done)


def test_a_dropped_job_sends_no_more_reports(model: Model, conversation: Path) -> None:
    with PipelineRun(model) as run:
        run.pipeline.submit(build_task(conversation, 1))
        run.wait_for(lambda reports: any(isinstance(r, ChunkStarted) for r in reports))
        run.pipeline.drop(JobId(1))
        assert run.pipeline.idle
        run.finish(build_task(SAMPLES / "voice_memo.flac", 2))
    assert not [r for r in run.reports if isinstance(r, TaskDone) and r.job_id == 1]
    assert len(run.build_chunks(1)) < len(SPOKEN)


def test_a_stop_finishes_the_chunks_in_flight(model: Model, conversation: Path) -> None:
    with PipelineRun(model) as run:
        run.pipeline.submit(build_task(conversation))
        run.wait_for(lambda reports: any(isinstance(r, ChunkStarted) for r in reports))
    started = {r.index for r in run.reports if isinstance(r, ChunkStarted)}
    assert started == {chunk.index for chunk in run.build_chunks()}
    assert len(started) < len(SPOKEN)
    assert not run.list_reports(TaskDone)


def test_split_channels_are_labelled(model: Model, tmp_path: Path) -> None:
    left, right = read_samples("voice_memo"), read_samples("meeting")
    length = max(left.shape[1], right.shape[1])
    both = np.concatenate(
        [np.pad(side, ((0, 0), (0, length - side.shape[1]))) for side in (left, right)]
    )
    run = transcribe_file(
        model, build_task(write_wav(tmp_path / "call.wav", both), options={"channels": "split"})
    )
    by_channel = {
        channel: join_text([c for c in run.build_chunks() if c.channel == channel])
        for channel in (0, 1)
    }
    assert "dentist" in by_channel[0]
    assert "library" in by_channel[1]
    assert all(
        segment.channel == chunk.channel
        for chunk in run.build_chunks()
        for segment in chunk.segments
    )


def test_words_have_times_and_join_to_the_text(model: Model) -> None:
    run = transcribe_file(
        model, build_task(SAMPLES / "voice_memo.flac", options={"word_timestamps": True})
    )
    for segment in (segment for chunk in run.build_chunks() for segment in chunk.segments):
        assert "".join(word.text for word in segment.words) == segment.text
        starts = [word.start for word in segment.words]
        assert starts == sorted(starts)
        assert segment.start == segment.words[0].start
        assert segment.end == segment.words[-1].end
        assert all(0 <= word.probability <= 1 for word in segment.words)


def test_without_timestamps_each_sentence_is_a_segment(
    model: Model, conversation: Path, expected_chunks: list[Chunk]
) -> None:
    """So it is on a GPU, where the decoder writes no timestamps."""
    assert isinstance(model.recognizer, WhisperRecognizer)
    recognizer = WhisperRecognizer(
        model.recognizer.model,
        CTranslate2Network(model.recognizer.model),
        CALL_RULES["cuda"],
    )
    as_on_gpu = replace(model, recognizer=recognizer)
    chunks = transcribe_file(as_on_gpu, build_task(conversation)).build_chunks()
    assert [chunk.index for chunk in chunks] == [chunk.index for chunk in expected_chunks]
    segments = [segment for chunk in chunks for segment in chunk.segments]
    assert len(segments) > len(chunks)
    assert not any(segment.words for segment in segments)
    times = [time for segment in segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    for chunk, expected in zip(chunks, expected_chunks, strict=True):
        assert chunk.segments[0].start == pytest.approx(expected.segments[0].start, abs=1.0)
        assert chunk.segments[-1].end == pytest.approx(expected.segments[-1].end, abs=1.0)
        assert chunk.segments[-1].end <= chunk.end + 0.001
    before_last = [segment for chunk in chunks for segment in chunk.segments[:-1]]
    unfinished = [part for part in before_last if not part.text.endswith((".", "!", "?"))]
    assert len(unfinished) < len(before_last) / 4
    # where the model writes no full stop; times follow the speech, so that a little is missing
    assert all(part.end - part.start > LONGEST_S - 1 for part in unfinished)
    silence = Clip(0, 0.0, None, np.zeros(SAMPLE_RATE, np.float32))
    exact = recognizer.prepare(silence, Options(accuracy="exact"), "en")
    assert exact.plan.has_timestamps


@pytest.mark.parametrize("accuracy", ["fast", "exact"])
def test_other_accuracies_work(model: Model, accuracy: str) -> None:
    run = transcribe_file(
        model,
        build_task(SAMPLES / "voice_memo.flac", options={"accuracy": accuracy, "beam_size": 3}),
    )
    assert "dentist" in join_text(run.build_chunks())


def test_without_voice_detection_all_audio_is_covered(model: Model, tmp_path: Path) -> None:
    sound = np.concatenate([read_samples("meeting"), read_samples("voice_memo")], axis=1)
    run = transcribe_file(
        model, build_task(write_wav(tmp_path / "a.wav", sound), options={"vad": False})
    )
    chunks = run.build_chunks()
    assert chunks[0].start == 0
    assert all(before.end == after.start for before, after in itertools.pairwise(chunks))
    assert chunks[-1].end == pytest.approx(sound.shape[1] / SAMPLE_RATE, abs=0.04)
    assert "dentist" in join_text(chunks)


def test_skipped_speech_is_decoded_again(model: Model) -> None:
    """The decoder may stop at a pause with high confidence.

    Here its first try omits what follows one.
    """
    memo, pause = (
        read_samples("voice_memo")[0, : 7 * SAMPLE_RATE],
        np.zeros(3 * SAMPLE_RATE, np.float32),
    )
    sound = np.concatenate([memo, pause, read_samples("answering_machine")[0, : 12 * SAMPLE_RATE]])
    clip = Clip(0, 0.0, None, sound, voiced=((0.2, 6.8), (10.2, 21.8)))
    recognizer, options = model.recognizer, Options(model="bundled")
    [hypothesis] = recognizer.recognize_batch(
        [recognizer.prepare(clip.cut_part(0.0, 8.0), options, "en")]
    )
    first = hypothesis.decoded
    jumped = replace(first, evidence=replace(first.evidence, speech_s=clip.speech_s))
    whole = recognizer.prepare(clip, options, "en")
    text = replace(hypothesis, request=whole, decoded=jumped).settle_doubts().text
    assert "dentist on Monday" in text
    assert "Museum" in text


def test_fallbacks_with_the_same_window_share_its_encoding(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "is_settled", lambda evidence: False)
    windows: list[int] = []
    encode_clips = decoding.Decoder.encode_clips

    def count_windows(
        decoder: decoding.Decoder, clips: Sequence[Samples], frames: Sequence[int]
    ) -> object:
        windows.extend(frames)
        return encode_clips(decoder, clips, frames)

    monkeypatch.setattr(decoding.Decoder, "encode_clips", count_windows)
    clip = Clip(0, 0.0, None, read_samples("voice_memo")[0, : 7 * SAMPLE_RATE])
    recognizer = model.recognizer
    request = recognizer.prepare(clip, Options(), "en", " We spoke at noon.")
    [hypothesis] = recognizer.recognize_batch([request])
    assert hypothesis.settle_doubts().redone == 3
    assert windows == [request.frames, decoding.FULL_WINDOW]


def test_a_prompt_can_change_the_spelling(model: Model) -> None:
    options = {"initial_prompt": "Harbour Museum, guided tour.", "hotwords": "harbour"}
    run = transcribe_file(model, build_task(SAMPLES / "answering_machine.flac", options=options))
    assert "harbour" in join_text(run.build_chunks()).lower()


@pytest.mark.parametrize("options", [{"language": "de"}, {"task": "translate"}])
def test_an_english_model_refuses_other_languages_and_translation(
    model: Model, options: dict[str, str]
) -> None:
    (failed,) = transcribe_file(
        model, build_task(SAMPLES / "voice_memo.flac", options=options)
    ).list_reports(TaskFailed)
    assert isinstance(failed, TaskFailed)
    assert failed.code == ErrorCode.MODEL_UNAVAILABLE


def test_a_bad_file_does_not_affect_others(model: Model, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(bytes(range(255)) * 20)  # random bytes may have the sync word of MPEG, 0xff...
    run = transcribe_file(model, build_task(bad, 1), build_task(SAMPLES / "voice_memo.flac", 2))
    assert [r.code for r in run.reports if isinstance(r, TaskFailed)] == [ErrorCode.NOT_MEDIA]
    assert "dentist" in join_text(run.build_chunks(2))


def test_noise_and_silence_have_no_text(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = np.concatenate([np.zeros(160_000), 0.2 * rng.standard_normal(160_000)])[np.newaxis]
    run = transcribe_file(
        model, build_task(write_wav(tmp_path / "noise.wav", noise.astype(np.float32)))
    )
    assert join_text(run.build_chunks()) == ""
    assert len(run.list_reports(TaskDone)) == 1


def test_a_missing_model_is_replaced_with_a_warning(tmp_path: Path) -> None:
    stand_in = load_model("small", build_spec(tmp_path)).loaded
    assert stand_in.requested == "small"
    assert "bundled" in stand_in.model
    assert stand_in.warning
    assert "small" in stand_in.warning


# --- the process


def run_child(conn: Connection, settled: WorkerSpec) -> None:
    os._exit(serve_requests(conn, settled))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[Connection, multiprocessing.Process]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_child, args=(theirs, build_spec(tmp_path)))
    process.start()
    theirs.close()
    yield ours, process  # type: ignore[misc]  # a SpawnProcess is a Process in all but name
    ours.close()
    process.kill()
    process.join()


def receive_until(conn: Connection, last: type) -> list[Report]:
    reports: list[Report] = []
    while not (reports and isinstance(reports[-1], last)):
        assert conn.poll(PATIENCE_S), reports
        reports.append(conn.recv())
    return reports


def test_a_worker_loads_works_and_drains(
    worker: tuple[Connection, multiprocessing.Process],
) -> None:
    conn, process = worker
    conn.send(build_task(SAMPLES / "voice_memo.flac", options={"model": "bundled"}))
    first = receive_until(conn, TaskDone)
    assert [type(report) for report in first[:3]] == [Hello, Loading, Loaded]
    conn.send(Drain())
    receive_until(conn, Drained)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def test_a_worker_without_its_daemon_exits(
    worker: tuple[Connection, multiprocessing.Process],
) -> None:
    conn, process = worker
    receive_until(conn, Hello)
    conn.close()
    process.join(PATIENCE_S)
    assert process.exitcode == EXIT_ORPHAN


def test_a_fault_is_reported_before_the_worker_exits(
    worker: tuple[Connection, multiprocessing.Process], tmp_path: Path
) -> None:
    conn, process = worker
    (tmp_path / "model.bin").write_bytes(b"not a model")
    conn.send(build_task(SAMPLES / "voice_memo.flac", options={"model": str(tmp_path)}))
    fault = receive_until(conn, Fault)[-1]
    assert isinstance(fault, Fault)
    assert fault.phase == "load"
    assert re.search("model", fault.error)
    process.join(PATIENCE_S)
    assert process.exitcode == EXIT_FAULT
