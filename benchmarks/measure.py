"""Measures a command with its children: wall-clock time, processor time and memory."""

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.2  # seconds between two samples of the processes


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    cpu_s: float  # seconds of all its processes that were sampled
    peak_mb: float  # sum of all its processes

    @property
    def cores_busy(self) -> float:
        """Use of the machine's cores in percent."""
        return 100 * self.cpu_s / self.seconds / (psutil.cpu_count() or 1)


def measured(command: Sequence[str]) -> Measured:
    """Run the command to its end and measure it. Raises CalledProcessError."""
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
    """Samples a process and its children in a thread until it is stopped."""

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
