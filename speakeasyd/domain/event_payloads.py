"""The data of each kind of event: what an `Event` has besides its kind, time and job.

The API's schema and docs/events.md are made from these classes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast, dataclass_transform

from pydantic import ConfigDict

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.incidents import ACTION_WORDS, Incident, IncidentAction, IncidentKind
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.domain.recording import RecorderState
from speakeasyd.domain.transcript import WarningKind

_payloads: dict[EventKind, type["Payload"]] = {}
PAYLOADS: Mapping[EventKind, type["Payload"]] = MappingProxyType(_payloads)
"""The class of the data of every kind."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Payload:
    """The data of one kind of event. Each subclass becomes a frozen dataclass."""

    event_kind: ClassVar[EventKind]
    __pydantic_config__: ClassVar = ConfigDict(use_attribute_docstrings=True)

    def __init_subclass__(cls, kind: EventKind | None = None) -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        if kind:
            cls.event_kind = kind
            _payloads[kind] = cls

    def to_data(self) -> dict[str, object]:
        """Return the fields by name, for JSON."""
        return asdict(cast(Any, self))


class _Sparse(Payload):
    """Fields that are None are left out."""

    def to_data(self) -> dict[str, object]:
        return {name: value for name, value in super().to_data().items() if value is not None}


# --- jobs


class _Arrival(Payload):
    inbox: str
    path: str
    """Relative to the inbox."""
    batch: str


class JobAdded(_Arrival, kind=EventKind.JOB_ADDED):
    pass


class JobSkipped(_Arrival, kind=EventKind.JOB_SKIPPED):
    duplicate_of: int | None
    """The job that has the same content."""


class JobClaimed(Payload, kind=EventKind.JOB_CLAIMED):
    inbox: str
    path: str
    """Relative to the inbox."""
    attempt: int
    """1 for the first."""


class JobLent(Payload, kind=EventKind.JOB_LENT):
    lender: int
    """The job whose transcript is reused."""


class JobNoted(_Sparse, kind=EventKind.JOB_NOTED):
    language: str | None = None
    language_probability: float | None = None
    model: str | None = None
    device: str | None = None
    container_seconds: float | None = None
    """Length of the file as its container gives it."""


class JobTranscribed(Payload, kind=EventKind.JOB_TRANSCRIBED):
    audio_seconds: float
    warning: str | None
    warning_kinds: list[WarningKind]


class JobCompleted(Payload, kind=EventKind.JOB_COMPLETED):
    artifacts: list[str]
    """Relative to the outbox."""
    supersedes: list[int]
    """The jobs of earlier versions of the file."""


class JobFailed(_Sparse, kind=EventKind.JOB_FAILED):
    error_code: str
    error: str
    inbox: str | None = None
    """Like `path` and `batch` only given for a file that was refused on arrival."""
    path: str | None = None
    batch: str | None = None


class JobCancelled(Payload, kind=EventKind.JOB_CANCELLED):
    error_code: str
    error: str


class JobReleased(Payload, kind=EventKind.JOB_RELEASED):
    error_code: str | None
    error: str | None
    available_at: str | None
    """Time of the next attempt; null: at once."""
    crash: bool
    """Whether a worker died on it."""


class JobRetried(Payload, kind=EventKind.JOB_RETRIED):
    pass


class JobRetryFailed(Payload, kind=EventKind.JOB_RETRY_FAILED):
    error_code: str
    error: str


class JobRetryCancelled(Payload, kind=EventKind.JOB_RETRY_CANCELLED):
    error_code: str
    error: str


class JobSpeakersChanged(Payload, kind=EventKind.JOB_SPEAKERS_CHANGED):
    speakers: list[str]
    """Their names, by number."""


class JobRecovered(Payload, kind=EventKind.JOB_RECOVERED):
    pass


# --- chunks, batches, models, incidents


class ChunkDone(Payload, kind=EventKind.CHUNK_DONE):
    chunk: int
    end: float
    """Seconds in the file."""
    gap: bool
    """Whether the chunk was left out."""
    progress: float
    """Of the job, from 0 to 1."""


class ChunkStruck(Payload, kind=EventKind.CHUNK_STRUCK):
    chunk: int
    strikes: int
    """Deaths of workers on this chunk so far."""


class BatchCompleted(Payload, kind=EventKind.BATCH_COMPLETED):
    batch: str
    total: int
    completed: int
    failed: int
    cancelled: int
    skipped: int
    audio_seconds: float


class ModelHeld(Payload, kind=EventKind.MODEL_HELD):
    model: str
    jobs: int
    """Number of jobs."""
    available_at: str
    """Time of the next attempt."""
    error_code: str
    error: str


class IncidentOpened(Payload, kind=EventKind.INCIDENT_OPENED):
    incident_id: int
    chunk: int | None
    kind: IncidentKind
    phase: Phase
    device: str | None
    worker: str | None
    error: str
    """`summary` and the original message."""
    summary: str
    action: str
    """What is done about it, for people."""
    action_kind: IncidentAction

    @classmethod
    def of(cls, incident_id: int, incident: Incident) -> Self:
        return cls(
            incident_id=incident_id,
            chunk=incident.chunk,
            kind=incident.kind,
            phase=incident.phase,
            device=incident.device,
            worker=incident.worker,
            error=incident.error,
            summary=incident.summary,
            action=ACTION_WORDS[incident.action],
            action_kind=incident.action,
        )


class IncidentResolved(Payload, kind=EventKind.INCIDENT_RESOLVED):
    incident_id: int
    cost_seconds: float
    """How long the incident lasted."""


# --- sources


class SourcePutAway(Payload, kind=EventKind.SOURCE_PUT_AWAY):
    path: str
    done: str


class SourceKept(Payload, kind=EventKind.SOURCE_KEPT):
    path: str
    reason: str


class SourceStuck(Payload, kind=EventKind.SOURCE_STUCK):
    path: str
    error: str


# --- the daemon


class PauseChange(Payload):
    cause: str
    """Kind and name together, for people."""
    kind: PauseKind
    name: str
    """Of the inbox that it concerns; empty: every inbox."""
    reason: str
    ends_by_itself: bool
    """Otherwise it lasts until `resume`."""

    @classmethod
    def of(cls, cause: PauseCause, reason: str) -> Self:
        return cls(
            cause=str(cause),
            kind=cause.kind,
            name=cause.name,
            reason=reason,
            ends_by_itself=cause.kind.ends_by_itself,
        )


class QueuePaused(PauseChange, kind=EventKind.QUEUE_PAUSED):
    pass


class QueueResumed(PauseChange, kind=EventKind.QUEUE_RESUMED):
    pass


class FailureChange(Payload):
    name: str
    """Of the service."""
    error: str


class FailureBegun(FailureChange, kind=EventKind.FAILURE_BEGUN):
    pass


class FailureEnded(FailureChange, kind=EventKind.FAILURE_ENDED):
    pass


class ConfigReloaded(Payload, kind=EventKind.CONFIG_RELOADED):
    now: list[str]
    """Changed keys that are in effect."""
    restart: list[str]
    """Changed keys that need a restart."""


class ConfigRefused(Payload, kind=EventKind.CONFIG_REFUSED):
    error: str
    hint: str


class DaemonRequest(Payload):
    """What a person asks of the running daemon."""


class ReloadRequested(DaemonRequest, kind=EventKind.RELOAD_REQUESTED):
    pass


class PauseRequested(DaemonRequest, kind=EventKind.PAUSE_REQUESTED):
    pass


class ResumeRequested(DaemonRequest, kind=EventKind.RESUME_REQUESTED):
    pass


class StopRequested(DaemonRequest, kind=EventKind.STOP_REQUESTED):
    pass


# --- deliveries


class _DeliveryProblem(Payload):
    target: str
    about: str
    """Kind of the event that was to be delivered."""
    error: str


class NoticePostponed(_DeliveryProblem, kind=EventKind.NOTICE_POSTPONED):
    again_at: str
    """Time of the next attempt."""


class NoticeFailed(_DeliveryProblem, kind=EventKind.NOTICE_FAILED):
    pass


# --- the recorder


class RecorderPayload(RecorderState, Payload):
    """The state of the recorder after the event."""


class RecorderStarted(RecorderPayload, kind=EventKind.RECORDER_STARTED):
    pass


class RecorderLevel(RecorderPayload, kind=EventKind.RECORDER_LEVEL):
    pass


class RecorderOverflow(RecorderPayload, kind=EventKind.RECORDER_OVERFLOW):
    pass


class RecorderStopped(RecorderPayload, kind=EventKind.RECORDER_STOPPED):
    pass


class RecorderFailed(RecorderPayload, kind=EventKind.RECORDER_FAILED):
    pass
