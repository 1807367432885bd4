"""Events and status values that the pool gives to the rest of the daemon."""

from dataclasses import dataclass

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, FaultKind
from speakeasyd.domain.protocol import Fault
from speakeasyd.workers.assigned_tasks import LostTask


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker exited unexpectedly. Its tasks have to be assigned again."""

    worker: str
    device: str
    tasks: tuple[LostTask, ...]
    diagnosis: Diagnosis
    phase: str | None  # of the reported fault; None without a report
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
class WorkerStatus:
    """The status of a worker, for users."""

    name: str
    device: str
    state: str
    model: str | None
    pid: int | None
    tasks: int
    since: str  # of the state; UTC, ISO 8601
    rss: int  # bytes
    warning: str | None = None
