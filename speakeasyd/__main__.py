"""Entry point: starts a worker, then imports and runs the command line.

The worker is first because its imports take longer.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from speakeasyd.errors import INTERRUPTED
from speakeasyd.garbage import pause_collection
from speakeasyd.system.limits import raise_file_limit
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.nvidia_driver import has_nvidia_driver
from speakeasyd.workers.spawn import SpawnedWorker, spawn_process

_WITH_WORKER = {"once", "run"}  # the commands that start one on a machine without a GPU
_HELP = {"-h", "--help"}


def main() -> int:
    """Run the command of the command line. Returns its exit status."""
    try:
        with prestart_worker(sys.argv[1:]) as prestarted:
            with pause_collection():
                from speakeasyd.cli import main as run_command  # noqa: PLC0415 - see above

            return run_command(prestarted=prestarted)
    except KeyboardInterrupt:  # before or after the command, which handles its own
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    finally:
        gc.freeze()  # what exists needs no search: it ends with the process


@contextmanager
def prestart_worker(arguments: Sequence[str]) -> Iterator[SpawnedWorker | None]:
    """Start a worker if the command may need one, and end it afterwards. Yields None without one.

    The configuration is not known yet: `start_early_worker` ends a worker that it does not use.
    """
    worker = None
    command = next(iter(arguments), "")
    is_wanted = command in _WITH_WORKER and _HELP.isdisjoint(arguments)
    if is_wanted and not has_nvidia_driver():
        raise_file_limit()  # the worker inherits the limit
        with suppress(OSError):  # the pool tries again, and tells it
            worker = spawn_process(imports=ENGINE.partition(":")[0])
    try:
        yield worker
    finally:
        if worker:
            worker.end()


if __name__ == "__main__":
    sys.exit(main())
