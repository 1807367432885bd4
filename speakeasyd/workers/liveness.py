"""Signs of life and of wear: when a worker hangs, when it has done enough, and whether memory ran out around it."""

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

from speakeasyd.domain.protocol import ChunkDone, Fault, Hello, Loaded, Loading, Report

START_S = 60.0  # seconds at least for a process to come up: a slow disk, a virus scanner
ASLEEP_S = 10.0  # seconds without a look: it was the machine that slept, not the worker
_CPU_PATIENCE = 3.0
USUAL_LEAST_S = 30.0  # seconds of silence that a worker at work may always have
USUAL_TIMES = 10.0  # and so many times the longest silence that it came back from
_OOM_KILLS = Path("/proc/vmstat")


class _LivenessPhase(Enum):
    """What the worker is at, and how many stall times it may be silent there."""

    STARTING = 2.0
    LOADING = 10.0  # a model is fetched; a new GPU compiles its kernels
    FIRST_CHUNK = 5.0  # the first pass allocates, and may compile, too
    WORKING = 1.0


class LivenessTracker:
    """Progress, not time alone, shows life: any report counts."""

    def __init__(self, *, stall_s: float, device: str, now: float) -> None:
        self._stall_s = stall_s * (_CPU_PATIENCE if device == "cpu" else 1.0)
        self._phase = _LivenessPhase.STARTING
        self._last_sign = self._last_look = now
        self._longest = 0.0  # seconds of silence between two signs at work

    @property
    def starting(self) -> bool:
        return self._phase is _LivenessPhase.STARTING

    def record_report(self, report: Report, now: float) -> None:
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
        """Something was asked of an idle worker: its silence counts from now."""
        self._last_sign = now

    def task_overdue(self, heard_at: float | None, tasks: int, now: float) -> bool:
        """Whether one of so many tasks has been without a report for too long, while the worker is at work.

        A task that has not begun waits for its turn: any report of the worker is a sign for it. Tasks take turns,
        so each may be quiet as many times as long as there are tasks.
        """
        if self._phase is not _LivenessPhase.WORKING:
            return False  # `is_overdue` watches a worker that starts or loads
        latest_sign = self._last_sign if heard_at is None else heard_at
        return now - latest_sign > self._stall_s * max(1, tasks)

    def is_overdue(self, now: float) -> bool:
        """Whether a worker that owes an answer has been silent for too long."""
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
    """Memory grows over long runs; a worker is replaced before it matters."""

    def __init__(self, *, hours: float, growth_mb: int) -> None:
        self._limit_s = hours * 3600 or float("inf")
        self._growth = growth_mb * 1_000_000 or float("inf")
        self._audio_s = 0.0
        self._warm = False
        self._first: int | None = None  # bytes, once the model had worked
        self.rss = 0  # bytes

    def record_report(self, report: Report) -> None:
        match report:
            case Loaded():
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
    """How many processes Linux has ended for want of memory since it started; 0 where no system counts them."""
    with suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", _OOM_KILLS.read_text("ascii"), re.MULTILINE):
            return int(found[1])
    return 0
