"""The contract between the daemon and a pool of workers, wherever the workers are.

The daemon keeps the ledger and the folders. A pool computes tasks and reports by events. Nothing in
this module refers to the machine of a worker: sources are named by `SourceRef`, and only
`WorkerSpec` has paths, which are those of the worker's machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, FaultKind, Phase
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.protocol import ChunkStarted, Fault, Report, Task

# --- events: from the pool to the daemon


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A report of a worker. The reports of one worker arrive in the order in which it sent them."""

    worker: str
    report: Report


@dataclass(frozen=True, slots=True)
class LostTask:
    """A task of a worker that died. `suspects`: the chunks that were on the device then."""

    job_id: JobId
    token: Token
    suspects: tuple[ChunkStarted, ...] = ()
    opened: bool = False  # no chunk is a suspect, but the file was being read


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker exited unexpectedly. Its tasks have to be submitted again."""

    worker: str
    device: str
    tasks: tuple[LostTask, ...]
    diagnosis: Diagnosis
    phase: Phase  # of the reported fault
    error: str  # of the reported fault; empty without a report
    exit_status: int | None
    last_words: str  # the end of its log
    lived_s: float  # seconds from its start to its exit
    then: DeviceState  # state of its device after the exit

    @property
    def kind(self) -> FaultKind:
        return self.diagnosis.kind


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A transition of a device's recovery. `cause`: the latest fault, until a chunk succeeds.

    `fault`: the report that preceded a soft restart.
    """

    worker: str
    device: str
    state: DeviceState
    cause: Diagnosis | None = None
    fault: Fault | None = None
    down_s: float | None = None  # set when the device is ready again: seconds since the fault


@dataclass(frozen=True, slots=True)
class RoomAvailable:
    """More tasks may be submitted now. Without it, the queue is checked only every few seconds."""


PoolNews = WorkerReport | WorkerLost | DeviceChange
"""The events that are stored."""
PoolEvent = PoolNews | RoomAvailable
OnPoolEvent = Callable[[PoolEvent], None]

# --- status


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The status of a worker, for users."""

    name: str
    device: str
    state: DeviceState
    model: str | None
    pid: int | None  # on the worker's machine, for users only
    tasks: int
    since: str  # of the state; UTC, ISO 8601
    rss: int  # bytes
    warning: str | None = None


# --- calls: from the daemon to the pool


class WorkerPool(Protocol):
    """Computes tasks on its devices and recovers from faults of its workers.

    All calls are made on the event loop; those that are not coroutines do not block and raise
    nothing. Events are delivered on the loop, in order, between `start` and the end of `stop`.

    Every submitted task ends in exactly one way: with `TaskDone` or `TaskFailed` in a
    `WorkerReport`, in a `WorkerLost`, by `drop_job`, or by `stop`. Reports carry the claim token of
    their task. After `drop_job`, reports that were already under way may still arrive; the receiver
    discards those whose token is not current.
    """

    async def start(self, on_event: OnPoolEvent) -> None:
        """Find the devices and start the workers. `on_event` must not block or raise."""

    async def stop(self, grace_s: float) -> None:
        """Let the workers finish their chunks for `grace_s` seconds, then end them. Idempotent.

        Finished chunks are reported; unfinished tasks are not reported as lost.
        """

    def kill(self) -> None:
        """End every worker at once. A `stop` in progress then returns without delay."""

    @property
    def device(self) -> str:
        """The device that gets chunks first: "cpu" or "cuda:0"."""

    def capacity(self, model: str, *, urgent: bool = False) -> int:
        """Return how many more tasks for this model to submit now; 0 after `stop`.

        `urgent`: of tasks that go before all others, so that long ones in all slots do not block
        them.
        """

    def submit_task(
        self, task: Task, *, alone: bool = False, on_cpu: bool = False, urgent: bool = False
    ) -> None:
        """Queue a task. `alone`: as the only task of its worker. `on_cpu`: not on a GPU."""

    def drop_job(self, job_id: JobId) -> None:
        """Drop the task of a job, whether it waits or a worker has it; unknown jobs are ignored."""

    def neglects(self, job_id: JobId) -> bool | None:
        """Return whether a task gets no reports while its worker works; None: no such task."""

    def unload_idle_models(self) -> None:
        """Free the models of workers without work; the next task loads them again."""

    async def read_gpu_available_mb(self) -> float | None:
        """Return the memory in MB that the workers can use on the GPU with the least.

        None if unknown.
        """

    @property
    def blocked_reason(self) -> str | None:
        """Why no task can be taken for some time, as a message for users; None if one can."""

    @property
    def fatal_diagnosis(self) -> Diagnosis | None:
        """The fault that a person has to fix before any task can be taken; None without one."""

    @property
    def is_supervised(self) -> bool:
        """Whether hung and dead workers are being found and replaced; a restart helps if not."""

    def status(self) -> Sequence[WorkerStatus]:
        """Return the status of each worker."""
