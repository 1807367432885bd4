"""The tasks that a worker holds: the progress of each, and the chunks on the device."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from speakeasyd.domain.fault import LOADING, READING, Phase
from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Fault,
    Opened,
    Report,
    Task,
    TaskDone,
    TaskFailed,
)
from speakeasyd.domain.worker_pool import LostTask


@dataclass(slots=True)
class _AssignedTask:
    task: Task
    alone: bool
    opened: bool = False
    last_report_at: float | None = None  # monotonic seconds of the latest report about the task
    started: dict[int, ChunkStarted] = field(default_factory=dict)


class AssignedTasks:
    """The tasks of one worker, updated from its reports: a worker that dies reports nothing."""

    def __init__(self) -> None:
        self._held: dict[JobId, _AssignedTask] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def alone(self) -> bool:
        """Whether the task has to run alone on the device."""
        return any(held.alone for held in self._held.values())

    @property
    def model(self) -> str | None:
        """The model that the tasks use; None without a task."""
        return next((held.task.options.model for held in self._held.values()), None)

    def add_task(self, task: Task, *, alone: bool) -> None:
        self._held[task.job_id] = _AssignedTask(task, alone)

    def list_tasks(self) -> list[Task]:
        return [held.task for held in self._held.values()]

    def drop_job(self, job_id: JobId) -> bool:
        """Forget the task of a job. Returns whether there was one."""
        return self._held.pop(job_id, None) is not None

    def find_last_report_time(self, job_id: JobId) -> float | None:
        """Return the time of the latest report about this task in monotonic seconds, or None."""
        held = self._held.get(job_id)
        return held.last_report_at if held else None

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._held

    def record_report(self, report: Report, now: float) -> None:
        job_id = getattr(report, "job_id", None)
        if job_id in self._held:
            self._held[job_id].last_report_at = now
        match report:
            case Opened() if held := self._find_task(report):
                held.opened = True
            case ChunkStarted(index=index) if held := self._find_task(report):
                held.started[index] = report
            case ChunkDone(chunk=chunk) if held := self._find_task(report):
                held.started.pop(chunk.index, None)
            case TaskDone() | TaskFailed() if self._find_task(report):
                del self._held[report.job_id]
            case _:
                pass

    def _find_task(
        self, report: Opened | ChunkStarted | ChunkDone | TaskDone | TaskFailed
    ) -> _AssignedTask | None:
        held = self._held.get(report.job_id)
        return held if held and held.task.token == report.token else None

    def take_all(self, fault: Fault | None, *, blame: bool) -> tuple[LostTask, ...]:
        """Remove and return all tasks with their suspects.

        `blame`: the work may have caused this kind of fault. While the model loads, nothing is a
        suspect; while a file is read, the files being read; else the chunks on the device, or the
        files being read if there was no chunk.
        """
        phase = fault.phase if fault else Phase.UNKNOWN
        blame = blame and phase not in LOADING
        on_device = (
            blame and phase not in READING and any(held.started for held in self._held.values())
        )
        reading = blame and not on_device
        lost = tuple(
            LostTask(
                job_id=job_id,
                token=held.task.token,
                suspects=tuple(held.started.values()) if on_device else (),
                opened=reading and held.opened,
            )
            for job_id, held in self._held.items()
        )
        self._held.clear()
        return lost


def collect_suspects(tasks: Iterable[LostTask]) -> frozenset[JobId]:
    """Return the jobs that may have caused the worker's death."""
    return frozenset(task.job_id for task in tasks if task.suspects or task.opened)
