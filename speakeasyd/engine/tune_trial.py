"""How fast a model is with certain settings, for `speakeasyd tune`, in a process of its own that may run out of memory.

`python -m speakeasyd.engine.tune_trial MODEL SECONDS SPEC`, SPEC as JSON, prints JSON: `speed`, seconds of audio
transcribed in a second, `model`, `compute_type` and `memory` in bytes; or `error`.
"""

import json
import sys
import threading
import time
from importlib.resources import as_file, files

import psutil

from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import ChunkDone, Report, Task, WorkerSpec
from speakeasyd.engine.faults import EngineFault
from speakeasyd.engine.model import Model, load_model
from speakeasyd.engine.pipeline import Pipeline

_TURNS = 200  # times that the samples are taken: more than any machine can do in the time


def collect_findings(requested: str, seconds: float, spec: WorkerSpec) -> dict[str, object]:
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
    """Over so many seconds, and until what was begun in them is done; at least one chunk. Raises EngineFault."""
    done: list[float] = []  # seconds of audio
    faults: list[EngineFault] = []
    over, first = threading.Event(), threading.Event()

    def hear(report: Report) -> None:
        if isinstance(report, ChunkDone):
            done.append(report.chunk.end - report.chunk.start)
            first.set()

    def fail(fault: EngineFault, _: object) -> None:
        faults.append(fault)
        over.set()
        first.set()

    pipeline = Pipeline(
        decoder=model.decoder,
        replicas=model.replicas,
        batch_size=model.batch_size,
        readers=2,
        send=hear,
        on_fault=fail,
        on_idle=over.set,
    )
    began = time.monotonic()
    with as_file(files("speakeasyd") / "data" / "samples") as folder:
        for number, sample in enumerate(sorted(folder.glob("*.flac")) * _TURNS):
            pipeline.submit(Task(JobId(number), Token("trial"), str(sample), options, None))
        over.wait(seconds)
        first.wait()  # a slow or busy machine may not have come so far
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
