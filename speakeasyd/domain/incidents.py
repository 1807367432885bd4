"""Incidents: faults that are not a file's, and what is done about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from speakeasyd.domain.fault import FaultKind, Phase
from speakeasyd.domain.job import JobId

STALL: Final = "stall"
"""The kind of an incident that is not a worker's fault: a job made no progress."""

IncidentKind = FaultKind | Literal["stall"]


class IncidentAction(StrEnum):
    """What is done about a fault. The value is stored in the ledger and returned by the API."""

    RELOAD_MODEL = "reload_model"
    """Soft restart with smaller settings."""
    START_WORKER = "start_worker"
    """Hard restart."""
    TRY_DEVICE = "try_device"
    """Hard restart after a probe passed: the circuit is half-open."""
    PROBE_DEVICE = "probe_device"
    """The circuit is open: the device is only probed."""
    USE_CPU = "use_cpu"
    """The circuit is open, and the CPU takes the work."""
    GIVE_UP_DEVICE = "give_up_device"
    """The device can never do the work; it is not probed."""
    WAIT_FOR_RESTART = "wait_for_restart"
    """The installation is broken: nothing is started until the daemon is restarted."""
    LEAVE_DEVICE = "leave_device"
    """The device has left the cluster: others do its work."""
    STOP = "stop"
    """Nothing: the daemon is stopping."""
    FAIL_JOB = "fail_job"
    """The stalled job has failed."""
    RELEASE_JOB = "release_job"
    """The stalled job waits for its next attempt."""
    OTHER = "other"
    """Only in old ledgers."""


ACTION_WORDS: Mapping[IncidentAction, str] = {
    IncidentAction.RELOAD_MODEL: (
        "the worker reloads the model with smaller settings and continues where it was"
    ),
    IncidentAction.START_WORKER: "a new worker is started",
    IncidentAction.TRY_DEVICE: "a new worker tries the device again",
    IncidentAction.PROBE_DEVICE: "the device gets no work until a probe succeeds",
    IncidentAction.USE_CPU: "the CPU is used until a probe of the device succeeds",
    IncidentAction.GIVE_UP_DEVICE: "the device gets no more work",
    IncidentAction.WAIT_FOR_RESTART: "no workers are started until the daemon is restarted",
    IncidentAction.LEAVE_DEVICE: "its work is given to other devices",
    IncidentAction.STOP: "none: the daemon is stopping",
    IncidentAction.FAIL_JOB: "the job has failed",
    IncidentAction.RELEASE_JOB: "the job continues from its committed chunks",
    IncidentAction.OTHER: "not recorded",
}
"""What is said of each action to people."""

DEVICE_UNAVAILABLE = frozenset({IncidentAction.PROBE_DEVICE, IncidentAction.USE_CPU})
"""The device gets no work until it passes a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A fault as it is recorded."""

    kind: IncidentKind
    phase: Phase
    device: str | None = None
    worker: str | None = None
    summary: str  # what happened
    detail: str = ""  # the original message, if there is one
    action: IncidentAction
    job_id: JobId | None = None
    chunk: int | None = None

    @property
    def error(self) -> str:
        return f"{self.summary}: {self.detail}" if self.detail else self.summary
