"""The next smaller way to load a model, after one that the device could not do."""

from collections.abc import Mapping
from dataclasses import replace

from speakeasyd.domain.fault import Remedy
from speakeasyd.domain.protocol import WorkerSpec

GPU_BATCH = 16  # chunks in one call, where the settings leave it to us

_SMALLER: Mapping[str, str] = {"auto": "int8_float16", "float16": "int8_float16", "float32": "int8_float16"}
"""Less memory for the weights."""

_OTHER: Mapping[str, Mapping[str, str]] = {
    "cuda": {"auto": "float32", "int8_float16": "float16", "int8": "float16", "float16": "float32"},
    "cpu": {"auto": "float32", "int8": "float32", "float16": "float32", "int8_float16": "float32"},
}
"""A compute type that more devices can do."""


def step_down(spec: WorkerSpec, remedy: Remedy) -> WorkerSpec | None:
    """The settings to try next; None if there are none, or if this remedy asks for no others.

    Batches first: they cost memory and no accuracy. `spec` should say the batch size in use where it is known.
    """
    device = spec.device.partition(":")[0]
    match remedy:
        case Remedy.STEP_DOWN if device == "cuda":
            batch = spec.batch_size or GPU_BATCH
            if batch > 1:
                return replace(spec, batch_size=batch // 2)
            smaller = _SMALLER.get(spec.compute_type)
            return replace(spec, compute_type=smaller) if smaller else None
        case Remedy.OTHER_TYPE:
            other = _OTHER[device].get(spec.compute_type)
            return replace(spec, compute_type=other) if other else None
        case _:
            return None
