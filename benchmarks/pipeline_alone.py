"""Transcribes files with the pipeline of a worker, without daemon, ledger and outbox.

Usage: python -m benchmarks.pipeline_alone MODEL DEVICE OUTPUT FILES...
The texts are written to OUTPUT as a JSON object by file name. The difference between this and
`speakeasyd once` is what the daemon costs.
"""

import json
import os
import sys
from pathlib import Path

from speakeasyd.workers.child import set_compute_environment

set_compute_environment(os.environ)  # before the libraries are loaded

from benchmarks.pipeline_run import run_pipeline  # noqa: E402
from speakeasyd.domain.options import Options  # noqa: E402
from speakeasyd.domain.protocol import WorkerSpec  # noqa: E402
from speakeasyd.engine.model import load_model  # noqa: E402


def main(name: str, device: str, output: str, *files: str) -> None:
    spec = WorkerSpec(
        device="cuda:0" if device == "cuda" else device,
        compute_type="auto",
        replicas=0,
        batch_size=0,
        state_dir=str(Path(output).parent),
    )
    model = load_model(name, spec)
    texts = run_pipeline(
        list(map(Path, files)),
        Options(model=name),
        recognizer=model.recognizer,
        replicas=model.replicas,
        batch_size=model.batch_size,
    )
    Path(output).write_text(json.dumps(texts), "utf-8")
    os._exit(0)  # as a worker ends: without freeing the model


if __name__ == "__main__":
    main(*sys.argv[1:])
