"""Runs the pipeline of a worker over files, without a worker and without a daemon."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkDone, Report, SourceRef, Task, TaskDone, TaskFailed
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.pipeline import Pipeline


def run_pipeline(
    files: Sequence[Path],
    options: Options,
    *,
    recognizer: Any,
    replicas: int,
    batch_size: int,
    on_chunk: Callable[[Chunk], object] = lambda _chunk: None,
) -> dict[str, str]:
    """Transcribe the files and return the texts by file name."""
    chunks: list[dict[int, str]] = [{} for _ in files]
    remaining, over = set(range(len(files))), threading.Event()

    def collect_report(report: Report) -> None:
        match report:
            case ChunkDone(job_id=number, chunk=chunk):
                on_chunk(chunk)
                chunks[number][chunk.index] = "".join(one.text for one in chunk.segments)
            case TaskDone(job_id=number) | TaskFailed(job_id=number):
                remaining.discard(number)
                if not remaining:
                    over.set()

    pipeline = Pipeline(
        recognizer=recognizer,
        replicas=replicas,
        batch_size=batch_size,
        readers=min(8, os.cpu_count() or 1),
        folders={str(file.parent): str(file.parent) for file in files},
        send=collect_report,
        on_fault=lambda fault, _: print(fault),
        on_idle=lambda: None,
    )
    for number, file in enumerate(files):
        source = SourceRef(str(file.parent), os.fsencode(file.name))
        pipeline.submit(Task(JobId(number), Token("alone"), source, options, None))
    over.wait()
    pipeline.stop()
    return {
        file.name: "".join(text for _, text in sorted(of_file.items()))
        for file, of_file in zip(files, chunks, strict=True)
    }
