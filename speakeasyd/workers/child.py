"""The first code that runs in a worker process: it makes the process a good child, then serves."""

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from speakeasyd.domain.protocol import Fault, WorkerSpec

ENGINE = "speakeasyd.engine.worker_host:serve_requests"
EXIT_BROKEN = 70  # as the engine's own: a fault was reported
_PR_SET_PDEATHSIG = 1

Serve = Callable[[Connection, WorkerSpec], int]


def run_child(conn: Connection, spec: WorkerSpec, target: str, log: str) -> None:
    """Run `target` ("module:function") behind the pipe, then leave by `os._exit`: freeing a model can abort."""
    _redirect_output(Path(log))
    _ignore_signals()
    set_compute_environment(os.environ)
    restrict_visible_devices(spec.device, spec.state_dir, os.environ)
    try:
        module, _, function = target.partition(":")
        serve: Serve = getattr(import_module(module), function)
        status = serve(
            conn, replace(spec, device="cuda:0") if spec.device.startswith("cuda") else spec
        )
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        traceback.print_exc()
        status = EXIT_BROKEN
        with suppress(OSError):
            conn.send(
                Fault(
                    "host", f"{type(error).__name__}: {error}", (), traceback=traceback.format_exc()
                )
            )
    sys.stderr.flush()
    os._exit(status)


def _redirect_output(log: Path) -> None:
    """Point stdout and stderr to a file, below Python too: the last words of native code are worth reading."""
    with suppress(OSError):
        log.replace(log.with_suffix(".previous.log"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o640)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # Both may be None where there is no console: pythonw, a Windows service.
    sys.stdout = sys.stderr = os.fdopen(
        2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False
    )
    faulthandler.enable(file=sys.stderr)


def _ignore_signals() -> None:
    """Ctrl-C reaches every process of a terminal, and SIGTERM is often sent to a whole group, as `timeout` does it.

    The parent drains its workers, and they die with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_compute_environment(environ: MutableMapping[str, str]) -> None:
    """Say how to compute to libraries that are not loaded yet. What a person has said stays."""
    # Replicas keep the cores busy. NumPy's own threads would spin on them for 20 ms after each product of matrices.
    environ.setdefault("OMP_NUM_THREADS", "1")
    if "avx512_vnni" in _read_cpu_flags():
        # CTranslate2 keeps to AVX2, since AVX-512 slowed older processors down. These it makes a tenth faster.
        environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


def _read_cpu_flags() -> Sequence[str]:
    """What Linux says of the processor; elsewhere nothing."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
        return next((line for line in lines if line.startswith("flags")), "").split()
    return ()


def restrict_visible_devices(
    device: str, state_dir: str, environ: MutableMapping[str, str]
) -> None:
    """Let CUDA see one device, which is then number 0, or none. Must run before anything loads CUDA."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return
    given = environ.get("CUDA_VISIBLE_DEVICES", "").split(
        ","
    )  # from a person or a scheduler, by any of CUDA's names
    number = int(index or 0)
    if number >= len(given) or not given[number].strip():
        given = [str(n) for n in range(number + 1)]
    environ["CUDA_VISIBLE_DEVICES"] = given[number].strip()
    # Newer GPUs compile at the first load, for minutes: keep that beside the models, where a service may write.
    environ.setdefault("CUDA_CACHE_PATH", str(Path(state_dir) / "cuda"))
