"""Names of devices: `cpu`, or `cuda:0`, `cuda:1`, ... for GPUs."""

from typing import Final

CPU: Final = "cpu"
FIRST_GPU: Final = "cuda:0"


def wants_gpus(setting: str) -> bool | None:
    """Return whether `workers.device` asks for GPUs; None: for GPUs if there are any."""
    return None if setting == "auto" else is_gpu(setting)


def is_gpu(device: str) -> bool:
    """Whether it names a GPU, or, as the setting `cuda` does, all of them."""
    return device.startswith("cuda")
