"""The next smaller way to load a model, after one that the device could not do."""

from dataclasses import replace

from speakeasyd.domain.fault import Remedy
from speakeasyd.domain.protocol import WorkerSpec

GPU_BATCH = 16  # chunks of 30 s in one call, where the settings leave it to us

_SMALL = frozenset({"int8", "int8_float16", "int8_float32", "int8_bfloat16"})


def step_down(spec: WorkerSpec, remedy: Remedy) -> WorkerSpec | None:
    """The settings to try next; None if there are none, or if this remedy asks for no others.

    Batches first: they cost memory and no accuracy. `spec` should say the batch size in use where it is known.
    """
    on_gpu = spec.device.startswith("cuda")
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
