"""A look at the GPUs in a process of its own: `python -m speakeasyd.engine.gpu_probe` prints what it finds as JSON.

Touching a sick device can hang or kill the process that does it; this one nobody misses.
"""

import ctypes
import json
import sys

import ctranslate2
import numpy as np

from speakeasyd.engine import cuda


def collect_findings() -> dict[str, object]:
    """The GPUs that CUDA shows, each with a little memory used on it, and the first error met, empty if none."""
    gpus: list[dict[str, object]] = []
    try:
        if count := ctranslate2.get_cuda_device_count():
            cuda.preload_cublas()
            _require_cublas()
        gpus.extend(_examine_gpu(index) for index in range(count))
    except Exception as error:  # noqa: BLE001 - every failure is a finding
        return {"gpus": gpus, "error": f"{type(error).__name__}: {error}"}
    return {"gpus": gpus, "error": ""}


def _examine_gpu(index: int) -> dict[str, object]:
    there = ctranslate2.StorageView.from_array(np.arange(1024, dtype=np.float32)).to_device(
        ctranslate2.Device.cuda
    )
    back = np.array(there.to_device(ctranslate2.Device.cpu))
    if back[-1] != 1023:
        raise RuntimeError("the GPU gave back other bytes than it was given")
    return {
        "memory": cuda.read_total_memory(index),
        "compute_types": sorted(ctranslate2.get_supported_compute_types("cuda", index)),
    }


def _require_cublas() -> None:
    name = "cublas64_12.dll" if sys.platform == "win32" else "libcublas.so.12"
    try:
        ctypes.CDLL(name)
    except OSError:
        raise RuntimeError(f"Library {name} is not found or cannot be loaded") from None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(collect_findings()))
