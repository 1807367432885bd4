"""Whether this machine has an NVIDIA driver."""

import sys
from pathlib import Path

DRIVER_TRACES = (
    ("C:/Windows/System32/nvcuda.dll",)
    if sys.platform == "win32"
    else (
        "/dev/nvidiactl",
        "/proc/driver/nvidia/version",
        "/dev/dxg",
        "/usr/lib/wsl/lib/libcuda.so.1",
    )
)
"""Files of the NVIDIA driver: without one of them, no probe for GPUs is started."""


def has_nvidia_driver(traces: tuple[str, ...] = DRIVER_TRACES) -> bool:
    """Return whether one of the driver's files exists."""
    return any(Path(trace).exists() for trace in traces)
