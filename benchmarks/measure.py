"""A command as a whole: its seconds, its processor time and its memory, children included."""

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    cpu_s: float  # of all its processes, as far as they were seen
    peak_mb: float  # of all its processes together

    @property
    def cores_busy(self) -> float:
        """Percent of the machine's cores."""
        return 100 * self.cpu_s / self.seconds / (psutil.cpu_count() or 1)


def measured(command: Sequence[str]) -> Measured:
    """Run it to its end. Raises CalledProcessError."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    tree = _Tree(process.pid)
    _, errors = process.communicate()
    seconds = time.monotonic() - began
    tree.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors[-2000:])
    return Measured(seconds, tree.cpu_s, tree.peak / 1e6)


class _Tree:
    """Looks at a process and its children in a thread until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._spent: dict[int, float] = {}  # processor seconds by process
        self.peak = 0  # bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        return sum(self._spent.values())

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with suppress(psutil.Error):
                self._look([self._root, *self._root.children(recursive=True)])

    def _look(self, processes: list[psutil.Process]) -> None:
        resident = 0
        for process in processes:
            with suppress(psutil.Error):
                times, memory = process.cpu_times(), process.memory_info()
                self._spent[process.pid] = times.user + times.system
                resident += memory.rss
        self.peak = max(self.peak, resident)
