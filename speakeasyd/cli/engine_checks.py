"""What `doctor` finds out about devices, libraries and the model: in processes of their own, since a sick GPU hangs or
kills whoever touches it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from speakeasyd.cli.finding import Finding, Level
from speakeasyd.config import Settings
from speakeasyd.domain.fault import classify
from speakeasyd.workers.child import prepare

PROBE_S = 90.0  # seconds; a first touch of a GPU's driver can take long
HUB = ("huggingface.co", 443)
HUB_S = 3.0  # seconds


def devices(settings: Settings) -> Iterator[Finding]:
    found = probe("speakeasyd.engine.probe")
    gpus, error = found.get("gpus", []), found.get("error", "")
    wanted = settings.workers.device
    if error:
        diagnosis = classify(phase="load", error=error)
        yield Finding(
            "GPU", Level.WARN if wanted == "cpu" else Level.FAIL, f"{diagnosis.what}: {error}", diagnosis.hint
        )
    elif gpus:
        sizes = ", ".join(f"cuda:{number} with {gpu['memory'] / 2**30:.0f} GB" for number, gpu in enumerate(gpus))
        yield Finding("GPU", Level.OK, f"{sizes}; cuBLAS is there")
    elif wanted.startswith("cuda"):
        yield Finding("GPU", Level.FAIL, "none is found", 'Install the driver, or set workers.device = "cpu".')
    else:
        yield Finding("GPU", Level.OK, "none; the CPU does the work")
    yield from _model(settings, "cuda:0" if gpus and wanted != "cpu" else "cpu")


def _model(settings: Settings, device: str) -> Iterator[Finding]:
    found = probe("speakeasyd.engine.checkup", settings.options.model, device, str(settings.state))
    if "ffmpeg" in found:
        yield Finding("FFmpeg", Level.OK, ", ".join(f"{name} {number}" for name, number in found["ffmpeg"].items()))
    else:
        yield Finding(
            "engine", Level.FAIL, found["error"], "Install speakeasyd again: pip install --force-reinstall speakeasyd"
        )
        return
    what = f"model {settings.options.model}"
    if "model" in found and not found["warning"]:
        yield Finding(what, Level.OK, f"{found['model']}, in {found['folder']}")
    elif settings.workers.offline or not _hub_answers():
        level = Level.WARN if "model" in found else Level.FAIL
        mend = "Fetch it where there is a network and name its folder in options.model."
        yield Finding(what, level, f"{found.get('warning') or found.get('error')}", mend)
    else:
        yield Finding(what, Level.OK, "not here yet; it is fetched from the hub when it is first needed")


def _hub_answers() -> bool:
    try:
        socket.create_connection(HUB, timeout=HUB_S).close()
    except OSError:
        return False
    return True


def probe(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of the engine finds. `error` where it finds its end instead."""
    command = [sys.executable, "-m", module, *arguments]
    environ = dict(os.environ)
    prepare(environ)  # as a worker is
    try:
        done = subprocess.run(  # noqa: S603 - ours
            command, env=environ, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PROBE_S:.0f} s"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stderr.strip().splitlines() or [f"it died with exit status {done.returncode}"])[-1]}
    return found
