"""Checks of devices, libraries and the model for `doctor`.

They run in separate processes, because a defective GPU blocks or ends any process that uses it.
"""

import asyncio
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from speakeasyd.cli.finding import Finding, Level
from speakeasyd.config import Settings
from speakeasyd.domain.devices import CPU, FIRST_GPU, is_gpu
from speakeasyd.domain.fault import FaultKind, Phase, classify_fault
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.ledger.lock import find_holder
from speakeasyd.probe import run_probe
from speakeasyd.workers.child import set_compute_environment

PROBE_S = 90.0  # seconds; a first touch of a GPU's driver can take long
SELFTEST_S = 300.0  # seconds; a large model on a slow disk takes long to load
HUB = ("huggingface.co", 443)
HUB_S = 3.0  # seconds


def check_devices(settings: Settings) -> Iterator[Finding]:
    found = run_engine_probe("speakeasyd.engine.gpu_probe")
    gpus, error = found.get("gpus", []), found.get("error", "")
    wanted = settings.workers.device
    if error:
        diagnosis = classify_fault(phase=Phase.LOAD, error=error)
        about = "engine" if diagnosis.kind is FaultKind.DEFECT else "GPU"
        level = Level.WARN if about == "GPU" and wanted == CPU else Level.FAIL
        yield Finding(about, level, f"{diagnosis.what}: {error}", diagnosis.hint)
    elif gpus:
        sizes = ", ".join(
            f"cuda:{number} with {gpu['memory'] / 2**30:.0f} GB" for number, gpu in enumerate(gpus)
        )
        yield Finding("GPU", Level.OK, f"{sizes}; cuBLAS is there")
    elif is_gpu(wanted):
        yield Finding(
            "GPU", Level.FAIL, "none is found", 'Install the driver, or set workers.device = "cpu".'
        )
    else:
        yield Finding("GPU", Level.OK, "none; the CPU does the work")
    yield from _check_model_files(settings, FIRST_GPU if gpus and wanted != CPU else CPU)


def _check_model_files(settings: Settings, device: str) -> Iterator[Finding]:
    found = run_engine_probe(
        "speakeasyd.engine.doctor_probe", settings.options.model, device, str(settings.state)
    )
    if "ffmpeg" in found:
        yield Finding(
            "FFmpeg",
            Level.OK,
            ", ".join(f"{name} {number}" for name, number in found["ffmpeg"].items()),
        )
    else:
        yield Finding(
            "engine",
            Level.FAIL,
            found["error"],
            "Install speakeasyd again: pip install --force-reinstall speakeasyd",
        )
        return
    yield from _check_model(settings, found)
    if "model" in found:
        yield from _run_selftest(settings, device)


def _check_model(settings: Settings, found: Mapping[str, Any]) -> Iterator[Finding]:
    what = f"model {settings.options.model}"
    if "model" in found and not found["warning"]:
        yield Finding(what, Level.OK, f"{found['model']}, in {found['folder']}")
    elif settings.workers.offline or not _is_hub_reachable():
        level = Level.WARN if "model" in found else Level.FAIL
        hint = "Fetch it where there is a network and name its folder in options.model."
        yield Finding(what, level, f"{found.get('warning') or found.get('error')}", hint)
    else:
        yield Finding(
            what, Level.OK, "not here yet; it is fetched from the hub when it is first needed"
        )


def _run_selftest(settings: Settings, device: str) -> Iterator[Finding]:
    """Decode a sample, tell its voices apart, and transcribe the canary with the model that would be taken now.

    The hub is not asked. While the daemon runs, its GPU is left to it: a second model might not fit.
    """
    workers = settings.workers
    if device != CPU and find_holder(settings.state):
        device = CPU
    compute_type = workers.compute_type if device != CPU or workers.device == CPU else "auto"
    spec = WorkerSpec(
        device=device,
        compute_type=compute_type,
        replicas=1,
        batch_size=1,
        state_dir=str(settings.state),
        offline=True,
    )
    arguments = (settings.options.model, json.dumps(asdict(spec)))
    found = run_engine_probe("speakeasyd.engine.selftest", *arguments, deadline_s=SELFTEST_S)
    if error := found.get("error"):
        diagnosis = classify_fault(phase=Phase(found.get("phase", "")), error=error, device=device)
        yield Finding("engine", Level.FAIL, f"{diagnosis.what}: {error}", diagnosis.hint)
        return
    decoded = f"decoded {found['decoded']:g} s of a sample"
    canary = (
        f"{found['model']} on {found['device']} ({found['compute_type']}) heard the canary's words,"
        f" computed by {found['network']}"
    )
    yield Finding("engine", Level.OK, f"{decoded}; {canary}")
    yield _check_speaker_models(found)


def _check_speaker_models(found: Mapping[str, Any]) -> Finding:
    what = "speaker models"
    if error := found.get("voices_error"):
        hint = "Install speakeasyd again: pip install --force-reinstall speakeasyd"
        return Finding(what, Level.FAIL, error, hint)
    if found["voices"] != 1:
        return Finding(what, Level.WARN, f"heard {found['voices']} voices in a sample of one")
    return Finding(what, Level.OK, "heard the one voice of a sample")


def _is_hub_reachable() -> bool:
    try:
        socket.create_connection(HUB, timeout=HUB_S).close()
    except OSError:
        return False
    return True


def run_engine_probe(module: str, *arguments: str, deadline_s: float = PROBE_S) -> dict[str, Any]:
    """What a module of the engine finds, in the environment of a worker: see `run_probe`. Blocks."""
    environ = dict(os.environ)
    set_compute_environment(environ)
    probe = run_probe("-m", module, *arguments, environ=environ, deadline_s=deadline_s)
    return asyncio.run(probe)
