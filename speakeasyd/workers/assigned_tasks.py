"""What a worker has in hand: its tasks, how far each got, and which chunks are on the device."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from speakeasyd.domain.job import JobId, Token
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


@dataclass(frozen=True, slots=True)
class LostTask:
    """A task that a dead worker had. `suspects`: the chunks that were on the device just then."""

    job_id: JobId
    token: Token
    suspects: tuple[ChunkStarted, ...] = ()
    opened: bool = False  # no chunk is suspect, but its file was being read


@dataclass(slots=True)
class _AssignedTask:
    task: Task
    alone: bool
    opened: bool = False
    heard_at: float | None = None  # monotonic seconds of the latest report about the task
    started: dict[int, ChunkStarted] = field(default_factory=dict)


class AssignedTasks:
    """Kept by the parent, from the reports alone: a worker that dies says nothing."""

    def __init__(self) -> None:
        self._held: dict[JobId, _AssignedTask] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def alone(self) -> bool:
        """Whether the one task must not get company."""
        return any(held.alone for held in self._held.values())

    @property
    def model(self) -> str | None:
        """The model that the tasks want."""
        return next((held.task.options.model for held in self._held.values()), None)

    def add_task(self, task: Task, *, alone: bool) -> None:
        self._held[task.job_id] = _AssignedTask(task, alone)

    def drop_job(self, job_id: JobId) -> bool:
        return self._held.pop(job_id, None) is not None

    def heard_at(self, job_id: JobId) -> float | None:
        """Monotonic seconds of the latest report about this task; None before the first."""
        held = self._held.get(job_id)
        return held.heard_at if held else None

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._held

    def record_report(self, report: Report, now: float) -> None:
        job_id = getattr(report, "job_id", None)
        if job_id in self._held:
            self._held[job_id].heard_at = now
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
        """Give everything back, with the suspects. `blame`: this kind of fault can be the work's doing at all.

        While loading, nobody is suspect; in reading, whatever was being read; else the chunks on the device, and if
        there were none, again whatever was being read.
        """
        phase = fault.phase if fault else None
        blame = blame and phase not in {"load", "canary"}
        on_device = (
            blame
            and phase not in {"decode", "vad"}
            and any(held.started for held in self._held.values())
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
    return frozenset(task.job_id for task in tasks if task.suspects or task.opened)
