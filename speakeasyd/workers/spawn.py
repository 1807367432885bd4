"""Starts worker processes. It imports little, so one can start before the rest is imported."""

import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from speakeasyd.workers import child


@dataclass(slots=True)
class SpawnedWorker:
    """A running worker process, before anybody serves its pipe."""

    process: BaseProcess
    conn: Connection
    log: Path = Path(os.devnull)  # of its output, once there is a spec

    def send_spec(self, name: str, spec: child.ChildSpec, target: str) -> None:
        """Make the process run `target` ("module:function"). Raises OSError."""
        self.log = Path(spec.state_dir) / "workers" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # the process has ended: whoever serves the pipe will notice
            self.conn.send((spec, target, str(self.log)))

    def end(self) -> None:
        """Kill the process, and wait for its end. Does nothing if it has ended."""
        self.kill()
        self.process.join()

    def kill(self) -> None:
        """Kill the process at once, even if it is stopped. A worker has nothing to clean up."""
        with suppress(OSError):
            self.process.kill()


def spawn_worker(
    name: str, spec: child.ChildSpec, target: str, prestarted: SpawnedWorker | None = None
) -> SpawnedWorker:
    """Start a worker that runs `target` ("module:function"), or let `prestarted` do it.

    Raises OSError. Call it on the main thread, see `spawn_process`.
    """
    worker = prestarted or spawn_process()
    try:
        worker.send_spec(name, spec, target)
    except OSError:
        worker.end()
        raise
    return worker


def spawn_process(*, imports: str = "") -> SpawnedWorker:
    """Start a worker that waits for its spec. Raises OSError.

    `imports`: a module that it imports meanwhile, see `child.run_child`.

    Call it on the main thread: the child asks Linux to be killed with its parent
    (PR_SET_PDEATHSIG), and that applies to the thread that started it.
    """
    context = multiprocessing.get_context("spawn")
    conn, childs_end = context.Pipe()
    process = context.Process(target=child.run_child, args=(childs_end, imports), daemon=True)
    worker = SpawnedWorker(process, conn)
    try:
        with _hide_main_module(), _hold_signals():
            process.start()
    except BaseException:
        if process.pid:  # interrupted after the start
            worker.end()
        raise
    childs_end.close()  # else the pipe would never end
    return worker


@contextmanager
def _hold_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM while a process is spawned.

    The child inherits that, and is not ended before it ignores them.
    """
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, child.IGNORED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Hide the main module while a process is spawned.

    Otherwise spawn would run it again in the child: the command line, or a user's script without a
    main guard. A worker does not need it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
