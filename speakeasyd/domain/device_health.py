"""State, events and actions of the recovery state machine in `domain.recovery`."""

from dataclasses import dataclass
from enum import StrEnum

from speakeasyd.domain.fault import Diagnosis
from speakeasyd.domain.job import JobId


class DeviceState(StrEnum):
    STARTING = "starting"
    """A worker is being started, possibly after a backoff."""
    READY = "ready"
    """The worker is running and has no task."""
    BUSY = "busy"
    """The worker has tasks."""
    SOFT_RESTARTING = "soft_restarting"
    """The worker loads the model again in the same process, with smaller settings."""
    POISONED = "poisoned"
    """The worker's state is unreliable after a fault; the process is being ended."""
    DEVICE_OPEN = "device_open"
    """The circuit is open: the device gets no work until a probe passes."""
    HALF_OPEN = "half_open"
    """The circuit is half-open: a probe passed, and the worker gets one task at a time."""
    CPU_ONLY = "cpu_only"
    """The circuit is open, as in `device_open`, and the CPU does the work meanwhile."""
    RECYCLING = "recycling"
    """The worker finishes its tasks and exits, to be replaced."""
    UNLOADED = "unloaded"
    """The worker was ended after a time without work; the next task starts one."""
    STOPPED = "stopped"
    """The daemon is stopping: no worker is started any more."""


OPEN = frozenset({DeviceState.DEVICE_OPEN, DeviceState.CPU_ONLY})
ACCEPTING = frozenset(
    {DeviceState.READY, DeviceState.BUSY, DeviceState.HALF_OPEN, DeviceState.UNLOADED}
)
"""States in which a worker takes tasks."""
QUIET = frozenset({DeviceState.READY, DeviceState.UNLOADED})
"""States in which nothing is expected of a worker."""


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """Waits and thresholds of recovery; times in seconds."""

    # Ceiling of the first backoff before a new worker; doubles with every consecutive failure
    restart_s: float = 1.0
    restart_min_s: float = 0.1  # lower limit of that backoff
    restart_max_s: float = 60.0
    probe_s: float = 10.0  # first wait before a probe; doubles with every consecutive failure
    probe_max_s: float = 300.0
    person_probe_s: float = 300.0  # between probes for faults that only a person can fix
    leave_s: float = 3.0  # grace period for a worker that reported a fault to exit by itself
    window_s: float = 600.0  # faults older than this no longer count against the device
    # Uncorrelated faults (on different files) within the window that open the circuit
    faults_to_open: int = 3
    soft_limit: int = 8  # consecutive soft restarts
    cpu_stand_in: bool = False  # the CPU takes the work of a device whose circuit is open


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """A fault that counts against the device."""

    at: float  # seconds, monotonic
    jobs: frozenset[JobId]  # jobs that may have caused it


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """The recovery state of one device."""

    state: DeviceState = DeviceState.STARTING
    failures: int = 0  # consecutive worker exits without a completed chunk
    unexplained: int = 0  # consecutive exits and failed probes that no file explains
    on_trial: bool = False  # the circuit is half-open: one more fault opens it again
    soft: int = 0  # consecutive soft restarts without a completed chunk
    faults: tuple[RecordedFault, ...] = ()  # oldest first
    cause: Diagnosis | None = None  # of the latest fault, until a chunk succeeds


# --- events ---


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The worker process is running."""


@dataclass(frozen=True, slots=True)
class ModelVerified:
    """The model is loaded and the canary passed."""


@dataclass(frozen=True, slots=True)
class TaskAssigned:
    """The worker got its first task."""


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """The worker has no task left."""


@dataclass(frozen=True, slots=True)
class ChunkSucceeded:
    """The worker returned the text of a chunk."""


@dataclass(frozen=True, slots=True)
class FaultReported:
    """The worker reported a fault; `soft`: it tries a soft restart."""

    diagnosis: Diagnosis
    soft: bool


@dataclass(frozen=True, slots=True)
class ProgressStopped:
    """The worker showed no progress within the liveness deadline."""

    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """The worker process exited, for whatever reason."""

    diagnosis: Diagnosis
    suspects: frozenset[JobId]  # jobs with a chunk on the device at the exit


@dataclass(frozen=True, slots=True)
class RecycleDue:
    """The worker is due for recycling and has no task."""


@dataclass(frozen=True, slots=True)
class UnloadDue:
    """The worker has no task, and its memory is wanted back."""


@dataclass(frozen=True, slots=True)
class ProbePassed:
    """A disposable process could use the device."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A disposable process could not use the device."""

    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The daemon is stopping."""


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
    | UnloadDue
    | ProbePassed
    | ProbeFailed
    | StopRequested
)

# --- actions ---


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker process after this many seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class KillWorker:
    """Kill the process after this many seconds, unless it exited before."""

    after_s: float


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Let the worker finish its tasks and then exit."""


@dataclass(frozen=True, slots=True)
class ScheduleProbe:
    """Probe the device after this many seconds."""

    after_s: float


RecoveryAction = StartWorker | KillWorker | DrainWorker | ScheduleProbe
Transition = tuple[DeviceHealth, tuple[RecoveryAction, ...]]
