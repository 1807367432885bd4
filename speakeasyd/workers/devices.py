"""Discovers and probes devices in disposable processes, which a faulty device may end."""

import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from speakeasyd.config import WorkerSettings
from speakeasyd.domain.devices import CPU, FIRST_GPU
from speakeasyd.domain.fault import Phase, classify_fault
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.probe import run_probe
from speakeasyd.workers.child import restrict_visible_devices
from speakeasyd.workers.nvidia_driver import DRIVER_TRACES, has_nvidia_driver

PROBE_S = 120.0  # seconds for a probe; the first use of a driver can take long
_PROBE = ("-m", "speakeasyd.engine.gpu_probe")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The findings of a probe."""

    gpus: int
    error: str = ""  # the first error; empty if all GPUs work


@dataclass(frozen=True, slots=True)
class DiscoveredWorkers:
    """The workers to run. `warning`: why an existing GPU is not used."""

    specs: tuple[WorkerSpec, ...]
    warning: str | None = None


Look = Callable[[], Awaitable[ProbeResult]]


async def probe_devices(
    device: str | None = None, *, state_dir: str = "", command: tuple[str, ...] = _PROBE
) -> ProbeResult:
    """Probe one device, or every GPU. Failures of the probe are returned as its error.

    Raises OSError if the process cannot be started.
    """
    environ = dict(os.environ)
    if device:
        restrict_visible_devices(device, state_dir, environ)
    found = await run_probe(*command, environ=environ, deadline_s=PROBE_S)
    return ProbeResult(len(found.get("gpus", ())), found["error"])


async def check_device(device: str, *, state_dir: str) -> str:
    """Probe one device. Returns its error; empty if the device works."""
    if device == CPU:
        return ""
    found = await probe_devices(device, state_dir=state_dir)
    return found.error or (
        "" if found.gpus else "CUDA failed with error no CUDA-capable device is detected"
    )


def find_known_devices(
    settings: WorkerSettings, traces: tuple[str, ...] = DRIVER_TRACES
) -> tuple[str, ...] | None:
    """Return the devices that the workers use; None if only a probe can tell."""
    if settings.device not in {"auto", "cuda"}:
        return (settings.device,)
    if settings.device == "auto" and not has_nvidia_driver(traces):
        return (CPU,)
    return None


def build_specs(
    settings: WorkerSettings, devices: Iterable[str], *, state_dir: Path
) -> tuple[WorkerSpec, ...]:
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


def name_worker(spec: WorkerSpec) -> str:
    return spec.device.replace(":", "-")


async def discover_workers(
    settings: WorkerSettings,
    *,
    state_dir: Path,
    look: Look = probe_devices,
    traces: tuple[str, ...] = DRIVER_TRACES,
) -> DiscoveredWorkers:
    """Return one worker for each GPU, or one for the CPU.

    If `auto` falls back to the CPU on a machine with a GPU, the warning says why.
    """

    def specs(*devices: str) -> tuple[WorkerSpec, ...]:
        return build_specs(settings, devices, state_dir=state_dir)

    if known := find_known_devices(settings, traces):
        return DiscoveredWorkers(specs(*known))
    found = await look()
    gpus = specs(*(f"cuda:{n}" for n in range(found.gpus)))
    if settings.device == "cuda":
        return DiscoveredWorkers(gpus or specs(FIRST_GPU))  # without a GPU, the worker reports why
    if gpus and not found.error:
        return DiscoveredWorkers(gpus)
    return DiscoveredWorkers(specs(CPU), _explain_no_gpu(found))


def _explain_no_gpu(found: ProbeResult) -> str:
    if found.error:
        diagnosis = classify_fault(phase=Phase.LOAD, error=found.error)
        what = f"the CPU works instead of the GPU: {diagnosis.what} ({found.error})"
        return f"{what}. {diagnosis.hint}".strip()
    return (
        "the CPU works although this machine has an NVIDIA driver: CUDA finds no GPU. "
        "Check `nvidia-smi`, and whether this user may use the device"
    )
