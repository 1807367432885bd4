"""Measures a model's speed with given settings, for `speakeasyd tune`.

It runs in a process of its own, because it may run out of memory. `python -m
speakeasyd.engine.tune_trial MODEL SECONDS SPEC`, with SPEC as JSON, prints JSON: `speed` in seconds
of audio a second, `model`, `compute_type` and `memory` in bytes; or `error`.
"""

import json
import os
import sys
import threading
import time
from importlib.resources import as_file, files

import psutil

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkDone, Report, SourceRef, Task, WorkerSpec
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import Pipeline
from speakeasyd.engine.recognizer import Model

_TURNS = 200  # repetitions of the samples: more than any machine can do in the time


def collect_findings(requested: str, seconds: float, spec: WorkerSpec) -> dict[str, object]:
    """Return the findings as in the module's docstring."""
    try:
        model = load_model(requested, spec)
        speed = _measure_speed(model, Options(model=requested), seconds)
    except EngineFault as fault:
        return {"error": str(fault)}
    loaded = model.loaded
    memory = psutil.Process().memory_info().rss
    return {
        "speed": speed,
        "model": loaded.model,
        "compute_type": loaded.compute_type,
        "memory": memory,
    }


def _measure_speed(model: Model, options: Options, seconds: float) -> float:
    """Return the speed, measured for `seconds` and until the chunks begun by then are done.

    At least one chunk is measured. Raises EngineFault.
    """
    done: list[float] = []  # seconds of audio
    faults: list[EngineFault] = []
    ended, first_done = threading.Event(), threading.Event()

    def record_report(report: Report) -> None:
        if isinstance(report, ChunkDone):
            done.append(report.chunk.end - report.chunk.start)
            first_done.set()

    def record_fault(fault: EngineFault, _: object) -> None:
        faults.append(fault)
        ended.set()
        first_done.set()

    with as_file(files("speakeasyd") / "data" / "samples") as folder:
        pipeline = Pipeline(
            recognizer=model.recognizer,
            replicas=model.replicas,
            batch_size=model.batch_size,
            readers=2,
            folders={"samples": str(folder)},
            send=record_report,
            on_fault=record_fault,
            on_idle=ended.set,
        )
        began = time.monotonic()
        for number, sample in enumerate(sorted(folder.glob("*.flac")) * _TURNS):
            source = SourceRef("samples", os.fsencode(sample.name))
            pipeline.submit(Task(JobId(number), Token("trial"), source, options, None))
        ended.wait(seconds)
        first_done.wait()  # a slow or busy machine may need longer for the first chunk
        pipeline.stop()
    if faults:
        raise faults[0]
    return sum(done) / (time.monotonic() - began)


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(
            collect_findings(sys.argv[1], float(sys.argv[2]), WorkerSpec(**json.loads(sys.argv[3])))
        )
    )
