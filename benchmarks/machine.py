"""Names the processor and what matters of its instruction sets, and the GPU."""

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

SETS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def describe_machine(device: str) -> str:
    """Return one line, such as `AMD EPYC, 2 cores, avx2; no avx512f, ...`."""
    name, flags = _read_cpuinfo()
    present = [one for one in SETS if one in flags]
    absent = [one for one in SETS if one not in flags]
    processor = f"{name}, {os.cpu_count()} cores, {' '.join(present)}; no {' '.join(absent)}"
    return f"{_name_gpu()}; {processor}" if device.startswith("cuda") else processor


def _read_cpuinfo() -> tuple[str, set[str]]:
    """Return the processor's name and its flags; no flags on systems other than Linux."""
    fields: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, set(fields.get("flags", "").split())


def _name_gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU found"
