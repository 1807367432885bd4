"""Transcribes a file in this process, without a daemon and without a ledger."""

import logging
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from pydantic import ValidationError

from speakeasyd.api.collected_reports import CollectedReports
from speakeasyd.config import Settings
from speakeasyd.domain.devices import CPU, FIRST_GPU
from speakeasyd.domain.error_hints import find_hint
from speakeasyd.domain.fault import classify_fault
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.presets import explain_options_error
from speakeasyd.domain.protocol import (
    Downloading,
    Loading,
    Report,
    SourceRef,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.transcript import Transcript
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.gpu_probe import count_gpus
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import InFlight, Pipeline
from speakeasyd.engine.recognizer import Model
from speakeasyd.errors import ConfigError, ErrorCode, FileFault, SpeakeasyError

log = logging.getLogger(__name__)

_FOLDER = "source"  # the name of the file's folder for the pipeline
_READERS = 1


class TranscribeOptions(TypedDict, total=False):
    """The options of a transcription. docs/configuration.md, table `[options]`, explains each."""

    model: str
    language: str
    languages: Sequence[str]
    task: Literal["transcribe", "translate"]
    accuracy: Literal["fast", "balanced", "exact"]
    beam_size: int
    initial_prompt: str
    hotwords: str
    word_timestamps: bool
    vad: bool
    audio: str | int
    channels: Literal["mix", "split"]
    speakers: Literal["off", "auto"] | int
    speakers_min: int
    speakers_max: int
    fallback: bool


def transcribe(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    state: str | os.PathLike[str] | None = None,
    offline: bool = False,
    **options: Unpack[TranscribeOptions],
) -> Transcript:
    """Transcribe an audio or video file and return its transcript.

    `device`: `cpu`, `cuda:0`, or `auto`. `state`: models are downloaded into its folder `models`;
    None: the daemon's default state folder. `offline`: never download one. The configuration file
    is not read.

    The model stays loaded for the next call with the same model and device. Blocks until the file
    is transcribed. It runs in this process: a fault in the libraries of a GPU can end it. For many
    files, and for recovery, use the daemon.

    Raises FileFault if the file cannot be transcribed (with a `code`), ConfigError for a wrong
    option, and SpeakeasyError if the model cannot be loaded or fails.

    >>> talk = transcribe("voice_memo.flac", model="bundled", language="en")
    >>> talk.text
    'Note to myself, call the dentist on Monday morning. Remember to buy red, milk and coffee. ...'
    >>> first = talk.segments[0]
    >>> 0 <= first.start < first.end <= talk.audio_seconds
    True
    """
    try:
        asked = Options.model_validate(options)
    except ValidationError as error:
        raise ConfigError(
            f"transcribe(): {explain_options_error(error)}",
            hint="docs/configuration.md, table [options], explains every option.",
        ) from error
    source = Path(path).resolve()
    if not source.is_file():
        what = f"there is no file {os.fspath(path)}"
        raise FileFault(ErrorCode.SOURCE_MISSING, what, hint="Check its name and folder.")
    spec = WorkerSpec(
        device=_choose_device(device),
        compute_type="auto",
        replicas=0,
        batch_size=0,
        state_dir=str(Path(state).absolute() if state else Settings().state),
        offline=offline,
    )
    try:
        model = _load_model(asked.model, spec)
        collected = _run_pipeline(model, source, asked)
    except EngineFault as fault:
        diagnosis = classify_fault(phase=fault.phase, error=str(fault), device=spec.device)
        hint = diagnosis.hint or find_hint(diagnosis.code)
        raise SpeakeasyError(f"{diagnosis.what}: {fault}", hint=hint) from fault
    return collected.build_transcript(source.name, asked, model.loaded)


def _choose_device(device: str) -> str:
    if device == "auto":
        return FIRST_GPU if count_gpus() else CPU
    return FIRST_GPU if device == "cuda" else device


@lru_cache(maxsize=1)
def _load_model(requested: str, spec: WorkerSpec) -> Model:
    return load_model(requested, spec, on_progress=_log_download)


def _log_download(report: Downloading | Loading) -> None:
    if isinstance(report, Downloading):
        log.info("downloading the model %s: %s", report.model, report.text)


def _run_pipeline(model: Model, source: Path, options: Options) -> CollectedReports:
    """Transcribe the file. Raises FileFault, EngineFault."""
    collected = CollectedReports()
    faults: list[EngineFault] = []
    ended = threading.Event()

    def collect_report(report: Report) -> None:
        collected.add(report)
        if isinstance(report, TaskDone | TaskFailed):
            ended.set()

    def record_fault(fault: EngineFault, _: InFlight) -> None:
        faults.append(fault)
        ended.set()

    pipeline = Pipeline(
        recognizer=model.recognizer,
        replicas=model.replicas,
        batch_size=model.batch_size,
        readers=_READERS,
        folders={_FOLDER: str(source.parent)},
        send=collect_report,
        on_fault=record_fault,
        on_idle=lambda: None,
    )
    try:
        reference = SourceRef(_FOLDER, os.fsencode(source.name))
        pipeline.submit(Task(JobId(0), Token(""), reference, options, None))
        ended.wait()
    finally:
        pipeline.stop()
    if faults:
        raise faults[0]
    if failed := collected.failed:
        code = ErrorCode(failed.code)
        raise FileFault(code, f"{source.name}: {failed.text}", hint=find_hint(code))
    return collected
