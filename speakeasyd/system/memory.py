"""Available memory of the machine."""

import psutil

MB = 1 << 20  # bytes


def read_available_mb() -> float:
    """Return the memory in MB that programs can use without swapping."""
    return float(psutil.virtual_memory().available) / MB
