"""Word error rates of the default settings on real recordings, if they are there."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import pytest
from whisper_normalizer.english import EnglishTextNormalizer

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkDone, Report, Task, TaskDone, WorkerSpec
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import Pipeline
from tests.sources import AllFolders, build_source_ref

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(4000)]

REFERENCE_ERRORS = {"clips": 6.8, "long": 2.6}
"""Percent of words wrong in a faster-whisper loop with its defaults and the bundled model
(`python -m benchmarks.usual loop`) over the recordings below; `python -m benchmarks` has all.
"""
ALLOWED_DIFFERENCE = 1.0  # percentage points above the reference: about 13 words of the clips
CLIP_STEP = 4  # every fourth clip
LONGEST_S = 400.0  # seconds of a long recording

Row = dict[str, Any]


@pytest.fixture(scope="module")
def manifest(speech: Path) -> list[Row]:
    rows = [
        json.loads(line) for line in (speech / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    return [
        row
        for row in rows
        if row["expect"] == "transcript" and row["language"] == "en" and row.get("reference")
    ]


def transcribe_files(folder: Path, rows: Sequence[Row], state: Path) -> list[str]:
    """Return the texts of the files, by the pipeline of a worker."""
    model = load_model("bundled", WorkerSpec("cpu", "auto", 2, 0, str(state), offline=True))
    chunks: dict[JobId, dict[int, str]] = {JobId(job): {} for job in range(len(rows))}
    remaining, over = set(chunks), threading.Event()

    def collect_report(report: Report) -> None:
        match report:
            case ChunkDone(job_id=job_id, chunk=chunk):
                chunks[job_id][chunk.index] = "".join(segment.text for segment in chunk.segments)
            case TaskDone(job_id=job_id):
                remaining.discard(job_id)
                if not remaining:
                    over.set()

    pipeline = Pipeline(
        recognizer=model.recognizer,
        replicas=2,
        batch_size=model.batch_size,
        readers=2,
        folders=AllFolders(),
        send=collect_report,
        on_fault=lambda fault, _: pytest.fail(str(fault)),
        on_idle=lambda: None,
    )
    for job, row in enumerate(rows):
        pipeline.submit(
            Task(
                JobId(job),
                Token("t"),
                build_source_ref(folder / row["path"]),
                Options(model="bundled"),
                None,
            )
        )
    assert over.wait(3000)
    pipeline.stop()
    return ["".join(texts[index] for index in sorted(texts)) for texts in chunks.values()]


@pytest.mark.parametrize("group", ["clips", "long"])
def test_word_errors_are_not_above_the_reference(
    speech: Path, manifest: list[Row], tmp_path: Path, group: str
) -> None:
    if group == "clips":
        rows = [row for row in manifest if row["kind"] in {"clip", "format"}][::CLIP_STEP]
    else:
        long = [row for row in manifest if row["kind"] == "long"]
        rows = [row for row in long if row["duration_s"] < LONGEST_S]
    normal = EnglishTextNormalizer()
    heard = [normal(text) or "-" for text in transcribe_files(speech, rows, tmp_path)]
    wrong = 100 * jiwer.wer([normal(row["reference"]) for row in rows], heard)
    assert wrong <= REFERENCE_ERRORS[group] + ALLOWED_DIFFERENCE
