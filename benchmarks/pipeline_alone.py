"""Transcribes files with the pipeline of a worker, without daemon, ledger and outbox.

Usage: python -m benchmarks.pipeline_alone MODEL DEVICE OUTPUT FILES...
The texts are written to OUTPUT as a JSON object by file name. The difference between this and
`speakeasyd once` is what the daemon costs.
"""

import json
import os
import sys
import threading
from pathlib import Path

from speakeasyd.workers.child import set_compute_environment

set_compute_environment(os.environ)  # before the libraries are loaded

from speakeasyd.domain.job import JobId, Token  # noqa: E402
from speakeasyd.domain.options import Options  # noqa: E402
from speakeasyd.domain.protocol import (  # noqa: E402
    ChunkDone,
    Report,
    SourceRef,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.engine.model import load_model  # noqa: E402
from speakeasyd.engine.pipeline import Pipeline  # noqa: E402


def main(model: str, device: str, output: str, *files: str) -> None:
    spec = WorkerSpec(
        device="cuda:0" if device == "cuda" else device,
        compute_type="auto",
        replicas=0,
        batch_size=0,
        state_dir=str(Path(output).parent),
    )
    loaded = load_model(model, spec)
    paths = list(map(Path, files))
    chunks: list[dict[int, str]] = [{} for _ in paths]
    remaining, over = set(range(len(paths))), threading.Event()

    def collect_report(report: Report) -> None:
        match report:
            case ChunkDone(job_id=number, chunk=chunk):
                chunks[number][chunk.index] = "".join(one.text for one in chunk.segments)
            case TaskDone(job_id=number) | TaskFailed(job_id=number):
                remaining.discard(number)
                if not remaining:
                    over.set()

    pipeline = Pipeline(
        recognizer=loaded.recognizer,
        replicas=loaded.replicas,
        batch_size=loaded.batch_size,
        readers=min(8, os.cpu_count() or 1),
        folders={str(path.parent): str(path.parent) for path in paths},
        send=collect_report,
        on_fault=lambda fault, _: sys.exit(str(fault)),
        on_idle=lambda: None,
    )
    options = Options(model=model)
    for number, path in enumerate(paths):
        source = SourceRef(str(path.parent), os.fsencode(path.name))
        pipeline.submit(Task(JobId(number), Token("alone"), source, options, None))
    over.wait()
    texts = {
        path.name: "".join(text for _, text in sorted(of_file.items()))
        for path, of_file in zip(paths, chunks, strict=True)
    }
    Path(output).write_text(json.dumps(texts), "utf-8")
    os._exit(0)  # as a worker ends: without freeing the model


if __name__ == "__main__":
    main(*sys.argv[1:])
