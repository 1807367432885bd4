"""Watchdog timer, recycling and OOM counter: when a worker hangs and when to replace it."""

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

from speakeasyd.domain.devices import CPU
from speakeasyd.domain.protocol import ChunkDone, Fault, Hello, Loaded, Loading, Report

START_S = 60.0  # seconds, at least, for a process to start: a slow disk, a virus scanner
ASLEEP_S = 10.0  # seconds between two checks that show that the machine was asleep
_CPU_PATIENCE = 3.0  # factor of the stall time for a worker on the CPU
USUAL_LEAST_S = 30.0  # seconds without a report that a working worker may always have
USUAL_TIMES = 10.0  # factor of the longest silence so far that a working worker may have
_OOM_KILLS = Path("/proc/vmstat")


class _LivenessPhase(Enum):
    """The phase of a worker; the value is its liveness deadline as a multiple of the stall time."""

    STARTING = 2.0
    LOADING = 10.0  # a model may be downloaded, and kernels compiled for a new GPU
    FIRST_CHUNK = 5.0  # the first chunk allocates memory and may compile kernels, too
    WORKING = 1.0


class LivenessTracker:
    """The liveness deadline of a worker: a watchdog timer that every report restarts."""

    def __init__(self, *, stall_s: float, device: str, now: float) -> None:
        self._stall_s = stall_s * (_CPU_PATIENCE if device == CPU else 1.0)
        self._phase = _LivenessPhase.STARTING
        self._last_sign = self._last_look = now
        self._longest = 0.0  # seconds: the longest silence between two reports while working

    @property
    def starting(self) -> bool:
        return self._phase is _LivenessPhase.STARTING

    def record_report(self, report: Report, now: float) -> None:
        """Restart the deadline and update the phase; `now` in monotonic seconds."""
        if self._phase is _LivenessPhase.WORKING:
            self._longest = max(self._longest, now - self._last_sign)
        self._last_sign = now
        match report:
            case Loading() | Fault():
                self._phase = _LivenessPhase.LOADING
            case Hello() | Loaded():
                self._phase = _LivenessPhase.FIRST_CHUNK
            case ChunkDone():
                self._phase = _LivenessPhase.WORKING
            case _:
                pass

    def restart_deadline(self, now: float) -> None:
        """Restart the deadline when an idle worker gets a request."""
        self._last_sign = now

    def task_overdue(self, last_report_at: float | None, tasks: int, now: float) -> bool:
        """Return whether a task has had no report for too long while the worker is working.

        `last_report_at`: time of the latest report about it; None if it waits for its turn: then any
        report counts. Tasks take turns, so the limit grows with their number `tasks`.
        """
        if self._phase is not _LivenessPhase.WORKING:
            return False  # `is_overdue` watches a worker that starts or loads
        latest_sign = self._last_sign if last_report_at is None else last_report_at
        return now - latest_sign > self._stall_s * max(1, tasks)

    def is_overdue(self, now: float) -> bool:
        """Return whether a worker that should report has exceeded its deadline.

        Time in which the machine was asleep does not count.
        """
        if now - self._last_look > ASLEEP_S:
            self._last_sign = now
        self._last_look = now
        allowed = self._stall_s * self._phase.value
        if self._phase is _LivenessPhase.WORKING:
            allowed = min(allowed, max(USUAL_LEAST_S, USUAL_TIMES * self._longest))
        if self.starting:
            allowed = max(allowed, START_S)
        return now - self._last_sign > allowed


class RecycleTracker:
    """Decides when to replace a worker: after hours of audio, or when its memory has grown."""

    def __init__(self, *, hours: float, growth_mb: int) -> None:
        self._limit_s = hours * 3600 or float("inf")
        self._growth = growth_mb * 1_000_000 or float("inf")
        self._audio_s = 0.0
        self._warm = False
        self._first: int | None = None  # bytes after the first chunk
        self.rss = 0  # bytes: the latest resident set size

    def record_report(self, report: Report) -> None:
        match report:
            case Loading() | Loaded():  # a library may load the model later
                self._warm, self._first = False, None
            case ChunkDone(chunk=chunk):
                self._warm = True
                self._audio_s += chunk.end - chunk.start
            case _:
                pass

    def record_memory(self, rss: int) -> None:
        self.rss = rss
        if self._warm and self._first is None:
            self._first = rss

    @property
    def is_due(self) -> bool:
        grown = self.rss - self._first if self._first is not None else 0
        return self._audio_s >= self._limit_s or grown >= self._growth


def count_oom_kills() -> int:
    """Return how many processes the OOM killer of Linux has ended since boot; 0 if unknown."""
    with suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", _OOM_KILLS.read_text("ascii"), re.MULTILINE):
            return int(found[1])
    return 0
