"""What recovery knows of a device, what can happen to it, and what can be done: the words of `recovery.step`."""

from dataclasses import dataclass
from enum import StrEnum

from speakeasyd.domain.fault import Diagnosis
from speakeasyd.domain.job import JobId


class DeviceState(StrEnum):
    STARTING = "starting"
    """A worker is on its way, perhaps after a wait."""
    READY = "ready"
    """The worker is up and has nothing to do."""
    BUSY = "busy"
    """The worker has tasks."""
    SOFT_RESTARTING = "soft_restarting"
    """The worker loads the model again by itself, with smaller settings."""
    POISONED = "poisoned"
    """The worker is not to be trusted any more; it is on its way out."""
    DEVICE_OPEN = "device_open"
    """The circuit is open: the device gets no work until a probe passes."""
    HALF_OPEN = "half_open"
    """A probe passed: a worker on trial, one task at a time."""
    CPU_ONLY = "cpu_only"
    """As `device_open`, and the CPU does the work meanwhile."""
    RECYCLING = "recycling"
    """The worker leaves in good order, to be replaced."""
    STOPPED = "stopped"


OPEN = frozenset({DeviceState.DEVICE_OPEN, DeviceState.CPU_ONLY})
ACCEPTING = frozenset({DeviceState.READY, DeviceState.BUSY, DeviceState.HALF_OPEN})
"""States in which a worker takes tasks."""


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    # Ceiling of the first wait before a new worker; doubles with every failure in a row
    restart_s: float = 1.0
    restart_min_s: float = 0.1  # no failure is followed by less
    restart_max_s: float = 60.0
    probe_s: float = 10.0  # first wait before a probe; doubles with every failure in a row
    probe_max_s: float = 300.0
    person_probe_s: float = 300.0  # between probes for what only a person can mend
    leave_s: float = 3.0  # for a worker that reported a fault to leave by itself
    window_s: float = 600.0  # in which faults are counted against the device
    # Faults in the window, no two on the same file, that condemn the device
    faults_to_open: int = 3
    soft_limit: int = 8  # soft restarts in a row
    cpu_stand_in: bool = False  # the CPU takes the work of a device whose circuit is open


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """A fault that is remembered against the device."""

    at: float  # seconds, monotonic
    jobs: frozenset[JobId]  # under suspicion


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """All that recovery knows of a device."""

    state: DeviceState = DeviceState.STARTING
    failures: int = 0  # dead workers in a row, no chunk done in between
    unexplained: int = 0  # dead workers and failed probes in a row that no file explains
    on_trial: bool = False  # the circuit is half open: one more fault opens it again
    soft: int = 0  # soft restarts in a row, no chunk done in between
    blows: tuple[RecordedFault, ...] = ()  # oldest first
    cause: Diagnosis | None = None  # of the latest fault, until work goes on


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The worker is up."""


@dataclass(frozen=True, slots=True)
class ModelVerified:
    """The model is loaded and the canary came out right."""


@dataclass(frozen=True, slots=True)
class TaskAssigned:
    """The worker got its first task."""


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """The worker has no task left."""


@dataclass(frozen=True, slots=True)
class ChunkSucceeded:
    """A chunk came back."""


@dataclass(frozen=True, slots=True)
class FaultReported:
    """The worker reported a fault; `soft`: it tries to go on by itself."""

    diagnosis: Diagnosis
    soft: bool


@dataclass(frozen=True, slots=True)
class ProgressStopped:
    """No sign of progress within the deadline."""

    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """The process is gone, whatever the reason."""

    diagnosis: Diagnosis
    suspects: frozenset[JobId]


@dataclass(frozen=True, slots=True)
class RecycleDue:
    """The worker has done enough, and has no task just now."""


@dataclass(frozen=True, slots=True)
class ProbePassed:
    """A disposable process could use the device."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon leaves."""


RecoveryEvent = (
    WorkerStarted
    | ModelVerified
    | TaskAssigned
    | TasksFinished
    | ChunkSucceeded
    | FaultReported
    | ProgressStopped
    | ProcessExited
    | RecycleDue
    | ProbePassed
    | ProbeFailed
    | StopRequested
)

# --- actions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartWorker:
    after_s: float


@dataclass(frozen=True, slots=True)
class KillWorker:
    after_s: float  # unless it left by itself before


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Let it finish what it has in hand, then leave."""


@dataclass(frozen=True, slots=True)
class ScheduleProbe:
    after_s: float


RecoveryAction = StartWorker | KillWorker | DrainWorker | ScheduleProbe
Transition = tuple[DeviceHealth, tuple[RecoveryAction, ...]]
