"""Entry point of a worker process: sets up signals, output and environment, then serves."""

import ctypes
import faulthandler
import gc
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
from typing import Any, Protocol

from speakeasyd.domain.devices import FIRST_GPU, is_gpu
from speakeasyd.domain.worker_exit import EXIT_FAULT, EXIT_ORPHAN
from speakeasyd.garbage import pause_collection

ENGINE = "speakeasyd.engine.worker_host:serve_requests"
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1

Serve = Callable[[Connection, Any], int]


class ChildSpec(Protocol):
    """The settings of a child process; a `WorkerSpec` if it is a worker. It can be pickled."""

    @property
    def device(self) -> str: ...

    @property
    def state_dir(self) -> str: ...


def run_child(conn: Connection, imports: str) -> None:
    """Receive a spec and a target, run the target, then end the process by `os._exit`.

    A normal exit would free the model, which can abort the process. `imports`: a module to import
    before the spec is known, and so before any GPU is hidden; empty on a machine with GPUs.
    """
    _ignore_signals()
    set_compute_environment(os.environ)
    if imports:
        # If this fails, the import of the target fails, too, and that is reported
        with suppress(Exception), pause_collection():
            import_module(imports)
    spec, target, log = _receive_spec(conn)
    try:
        _redirect_output(Path(log))
        restrict_visible_devices(spec.device, spec.state_dir, os.environ)
        module, _, function = target.partition(":")
        with pause_collection():
            serve: Serve = getattr(import_module(module), function)
        gc.freeze()  # modules are never garbage
        if is_gpu(spec.device):
            spec = replace(spec, device=FIRST_GPU)
        status = serve(conn, spec)
    except BaseException as error:  # noqa: BLE001 - every error is reported to the daemon
        traceback.print_exc()
        status = EXIT_FAULT
        with suppress(OSError):
            conn.send(_describe_error(error))
    sys.stderr.flush()
    os._exit(status)


def _receive_spec(conn: Connection) -> tuple[Any, str, str]:
    """Return the `ChildSpec`, the target ("module:function") and the path of the log."""
    try:
        spec, target, log = conn.recv()
    except (EOFError, OSError):
        os._exit(EXIT_ORPHAN)
    return spec, target, log


def _describe_error(error: BaseException) -> object:
    """Return the report about an error of the target."""
    # Not imported above: the parent imports this module before it starts its first worker
    from speakeasyd.domain.fault import Phase  # noqa: PLC0415
    from speakeasyd.domain.protocol import Fault  # noqa: PLC0415

    text = f"{type(error).__name__}: {error}"
    return Fault(Phase.HOST, text, (), traceback=traceback.format_exc())


def _redirect_output(log: Path) -> None:
    """Redirect stdout and stderr to a file, also for native code, whose last output is needed."""
    with suppress(OSError):
        log.replace(log.with_suffix(".previous.log"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o640)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # Both may be None without a console: pythonw, a Windows service.
    sys.stdout = sys.stderr = os.fdopen(
        2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False
    )
    faulthandler.enable(file=sys.stderr)


def _ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM: the daemon drains its workers, which end when it ends.

    Ctrl-C reaches every process of a terminal, and SIGTERM is often sent to the whole process
    group, for example by `timeout`.
    """
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)  # see `spawn_process`
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_compute_environment(environ: MutableMapping[str, str]) -> None:
    """Set defaults of the compute libraries, before they are loaded; existing values are kept."""
    # Replicas use all cores. Threads of OpenMP would busy-wait 20 ms after each matrix product.
    environ.setdefault("OMP_NUM_THREADS", "1")
    if "avx512_vnni" in _read_cpu_flags():
        # CTranslate2 chooses AVX2, since AVX-512 slows down older processors. Processors with VNNI
        # are a tenth faster with AVX-512.
        environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


def _read_cpu_flags() -> Sequence[str]:
    """Return the processor's feature flags from /proc/cpuinfo; empty on other systems."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
        return next((line for line in lines if line.startswith("flags")), "").split()
    return ()


def restrict_visible_devices(
    device: str, state_dir: str, environ: MutableMapping[str, str]
) -> None:
    """Make one device visible to CUDA, as number 0, or none. Must run before CUDA is loaded."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return
    # Set by a user or a scheduler, with any of the names that CUDA accepts
    given = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    number = int(index or 0)
    if number >= len(given) or not given[number].strip():
        given = [str(n) for n in range(number + 1)]
    environ["CUDA_VISIBLE_DEVICES"] = given[number].strip()
    # On new GPUs, kernels are compiled at the first load, which can take minutes: cache them in the
    # state folder, where a service may write.
    environ.setdefault("CUDA_CACHE_PATH", str(Path(state_dir) / "cuda"))
