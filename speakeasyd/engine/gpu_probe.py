"""GPU probe: `python -m speakeasyd.engine.gpu_probe` prints its findings as JSON.

It runs in a disposable process, because using a faulty device can hang or end the process.
"""

import ctypes
import json
import sys

import ctranslate2
import numpy as np

from speakeasyd.engine import cuda


def count_gpus() -> int:
    """Return the number of GPUs that CUDA lists, without trying them."""
    return int(ctranslate2.get_cuda_device_count())


def collect_findings() -> dict[str, object]:
    """Return the GPUs that CUDA lists, after a small copy on each, and the first error.

    `error` is empty if all GPUs work. Never raises.
    """
    gpus: list[dict[str, object]] = []
    try:
        if count := count_gpus():
            cuda.preload_cublas()
            _require_cublas()
        gpus.extend(_examine_gpu(index) for index in range(count))
    except Exception as error:  # noqa: BLE001 - every failure is a finding
        return {"gpus": gpus, "error": f"{type(error).__name__}: {error}"}
    return {"gpus": gpus, "error": ""}


def _examine_gpu(index: int) -> dict[str, object]:
    on_gpu = ctranslate2.StorageView.from_array(np.arange(1024, dtype=np.float32)).to_device(
        ctranslate2.Device.cuda
    )
    copied_back = np.array(on_gpu.to_device(ctranslate2.Device.cpu))
    if copied_back[-1] != 1023:
        raise RuntimeError("the GPU returned other bytes than were copied to it")
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
