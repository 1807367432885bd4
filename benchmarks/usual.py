"""Common ways to use faster-whisper in a script.

Usage: python -m benchmarks.usual WAY MODEL DEVICE COMPUTE_TYPE OUT.json FILE...

`loop-x-cores` runs a loop with one thread on each core; each takes the next file.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.transcribe import Segment

GPU_BATCH = 16

Weights = tuple[str, str, str]  # model, device, compute type

_model: WhisperModel  # of a process of `loop-x-cores`


def load(weights: Weights, threads: int = 0) -> WhisperModel:
    """Load the model; `threads`: 0 is the default of faster-whisper."""
    model, device, compute_type = weights
    return WhisperModel(model, device=device, compute_type=compute_type, cpu_threads=threads)


def transcribe_in_turn(way: str, weights: Weights, files: Sequence[str]) -> dict[str, str]:
    model = load(weights)
    batched = BatchedInferencePipeline(model).transcribe
    transcribe = {
        "loop": model.transcribe,
        "loop-beam-1": partial(model.transcribe, beam_size=1),
        "batched": partial(batched, batch_size=GPU_BATCH) if weights[1] == "cuda" else batched,
    }[way]
    return {Path(file).name: _join(transcribe(file)[0]) for file in files}


def transcribe_on_every_core(weights: Weights, files: Sequence[str]) -> dict[str, str]:
    """Large files first, so that the processes end at about the same time."""
    largest_first = sorted(files, key=os.path.getsize, reverse=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), _load_here, (weights,)) as pool:
        return dict(pool.imap_unordered(_transcribe_here, largest_first))


def _load_here(weights: Weights) -> None:
    global _model
    _model = load(weights, threads=1)


def _transcribe_here(file: str) -> tuple[str, str]:
    return Path(file).name, _join(_model.transcribe(file)[0])


def _join(segments: Iterable[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def main(way: str, model: str, device: str, compute_type: str, out: str, *files: str) -> None:
    weights = (model, device, compute_type)
    texts = (
        transcribe_on_every_core(weights, files)
        if way == "loop-x-cores"
        else transcribe_in_turn(way, weights, files)
    )
    Path(out).write_text(json.dumps(texts), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
