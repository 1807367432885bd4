"""The default settings to load a model with, and smaller ones after the device refused them."""

import os
from dataclasses import replace

from speakeasyd.domain.devices import is_gpu
from speakeasyd.domain.fault import Remedy
from speakeasyd.domain.protocol import WorkerSpec

GPU_BATCH = 16  # default number of chunks of 30 s in one call on a GPU
CPU_BATCH = 4  # on a CPU, for a small model
GPU_REPLICAS = 2  # one decodes text while the other encodes

_SMALL = frozenset({"int8", "int8_float16", "int8_float32", "int8_bfloat16"})


def count_replicas(spec: WorkerSpec) -> int:
    """Return how many calls of the model run in parallel on the device."""
    return spec.replicas or (GPU_REPLICAS if is_gpu(spec.device) else os.cpu_count() or 1)


def step_down(spec: WorkerSpec, remedy: Remedy) -> WorkerSpec | None:
    """Return the settings to try next; None if none are left or the remedy needs no others.

    The batch size is reduced first: it takes memory but does not affect accuracy. `spec` should
    have the batch size in use if it is known.
    """
    on_gpu = is_gpu(spec.device)
    match remedy:
        case Remedy.STEP_DOWN if on_gpu and (batch := spec.batch_size or GPU_BATCH) > 1:
            return replace(spec, batch_size=batch // 2)
        case Remedy.STEP_DOWN if on_gpu and spec.compute_type not in _SMALL:
            return replace(spec, compute_type="int8_float16")
        case Remedy.OTHER_TYPE if on_gpu and spec.compute_type in _SMALL:
            return replace(spec, compute_type="float16")
        case Remedy.OTHER_TYPE if spec.compute_type != "float32":
            return replace(spec, compute_type="float32")
        case _:
            return None
