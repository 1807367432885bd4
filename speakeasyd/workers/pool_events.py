"""What the pool tells the rest of the daemon."""

from dataclasses import dataclass

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, FaultKind
from speakeasyd.domain.protocol import Fault
from speakeasyd.workers.assigned_tasks import LostTask


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone and was not meant to. Its tasks are nobody's now."""

    worker: str
    device: str
    tasks: tuple[LostTask, ...]
    diagnosis: Diagnosis
    phase: str | None  # where the fault was, if the worker could still say
    error: str  # verbatim; empty if it could not say
    exit_status: int | None
    last_words: str  # the end of its log
    lived_s: float  # seconds from its start
    then: DeviceState  # of its device: what is being done about it

    @property
    def kind(self) -> FaultKind:
        return self.diagnosis.kind


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A device's recovery took a step. `cause` is the latest fault, while work does not go on.

    `fault`: the worker mends itself, and said this of what was wrong.
    """

    worker: str
    device: str
    state: DeviceState
    cause: Diagnosis | None = None
    fault: Fault | None = None
    down_s: float | None = None  # the device is ready again: seconds from the fault


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as people see it."""

    name: str
    device: str
    state: str
    model: str | None
    pid: int | None
    tasks: int
    since: str  # of the state; UTC, ISO 8601
    rss: int  # bytes
    warning: str | None = None
