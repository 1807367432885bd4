"""Which devices there are, and whether one is well: asked in disposable processes, which the answer may kill."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from speakeasyd.config import WorkerSettings
from speakeasyd.domain.fault import classify
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.workers.child import show_only

PROBE_S = 120.0  # seconds for a probe; a first touch of a driver can take long
_PROBE = ("-m", "speakeasyd.engine.probe")
_DRIVER_TRACES = (
    ("C:/Windows/System32/nvcuda.dll",)
    if sys.platform == "win32"
    else ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1")
)
"""Without one of these there is no GPU to look for."""


@dataclass(frozen=True, slots=True)
class Findings:
    gpus: int
    error: str = ""  # the first that was met; empty if all GPUs are well


@dataclass(frozen=True, slots=True)
class Discovery:
    """The workers to run. `warning`: it is not what the machine promises; say so loudly."""

    specs: tuple[WorkerSpec, ...]
    warning: str | None = None


Look = Callable[[], Awaitable[Findings]]


async def look(device: str | None = None, *, state_dir: str = "", command: tuple[str, ...] = _PROBE) -> Findings:
    """Look at one device, or at every GPU. Never raises; what goes wrong is in the findings."""
    environ = dict(os.environ)
    if device:
        show_only(device, state_dir, environ)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PROBE_S)
    except TimeoutError:
        return Findings(0, f"the probe gave no answer within {PROBE_S:.0f} s")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    try:
        found = json.loads(out)
        return Findings(len(found["gpus"]), found["error"])
    except ValueError:
        said = err.decode(errors="replace").strip().splitlines()
        return Findings(0, said[-1] if said else f"the probe died with exit status {process.returncode}")


async def well(device: str, *, state_dir: str) -> str:
    """Try one device. Returns what is wrong with it, empty if nothing."""
    if device == "cpu":
        return ""
    found = await look(device, state_dir=state_dir)
    return found.error or ("" if found.gpus else "CUDA failed with error no CUDA-capable device is detected")


async def discover(
    settings: WorkerSettings, *, state_dir: Path, look: Look = look, traces: tuple[str, ...] = _DRIVER_TRACES
) -> Discovery:
    """One worker for each GPU, or one for the CPU. `auto` never falls to the CPU silently."""

    def specs(*devices: str) -> tuple[WorkerSpec, ...]:
        return tuple(
            WorkerSpec(
                device=device,
                compute_type=settings.compute_type,
                replicas=settings.replicas,
                batch_size=settings.batch_size,
                state_dir=str(state_dir),
                offline=settings.offline,
            )
            for device in devices
        )

    if settings.device not in {"auto", "cuda"}:
        return Discovery(specs(settings.device))
    if settings.device == "auto" and not _has_driver(traces):
        return Discovery(specs("cpu"))
    found = await look()
    gpus = specs(*(f"cuda:{n}" for n in range(found.gpus)))
    if settings.device == "cuda":
        return Discovery(gpus or specs("cuda:0"))  # none: its worker will say why, and wait
    if gpus and not found.error:
        return Discovery(gpus)
    return Discovery(specs("cpu"), _why_no_gpu(found))


def _has_driver(traces: tuple[str, ...]) -> bool:
    return any(Path(trace).exists() for trace in traces)


def _why_no_gpu(found: Findings) -> str:
    if found.error:
        diagnosis = classify(phase="load", error=found.error)
        return f"the CPU works instead of the GPU: {diagnosis.what} ({found.error}). {diagnosis.hint}".strip()
    return (
        "the CPU works although this machine has an NVIDIA driver: CUDA finds no GPU. "
        "Look at `nvidia-smi`, and whether this user may use the device"
    )
