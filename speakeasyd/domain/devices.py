"""Names of devices: `cpu`, or `cuda:0`, `cuda:1`, ... for GPUs."""

from typing import Final

CPU: Final = "cpu"
FIRST_GPU: Final = "cuda:0"


def is_gpu(device: str) -> bool:
    """Whether it names a GPU, or, as the setting `cuda` does, all of them."""
    return device.startswith("cuda")
