"""Notifications: kinds of events, message texts, and the arguments of a user's command. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.job import Status
from speakeasyd.domain.retry import BackoffSettings, compute_backoff


class NotificationKind(StrEnum):
    """What users can be told of. The value is used in the configuration and in messages."""

    JOB_COMPLETED = EventKind.JOB_COMPLETED.value
    """The transcript is in the outbox."""
    JOB_FAILED = EventKind.JOB_FAILED.value
    """A job failed."""
    BATCH_COMPLETED = EventKind.BATCH_COMPLETED.value
    """All jobs of a batch have ended, and none was added for five seconds."""
    DEVICE_OPEN = "device.open"
    """A device gets no work until it passes a probe."""


USUAL_NOTIFICATIONS = (
    NotificationKind.JOB_FAILED,
    NotificationKind.BATCH_COMPLETED,
    NotificationKind.DEVICE_OPEN,
)
"""What users are told of unless they choose otherwise."""

_JOB_FIELDS = ("job_id", "source", "language", "audio_seconds", "inbox")
_FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Notification:
    """What users are told of an event."""

    kind: NotificationKind
    at: str  # UTC, ISO 8601
    seq: int  # number of the event
    data: Mapping[str, object]  # of the event and of its job


class DeliveryStatus(StrEnum):
    """The state of a delivery. The value is stored in the ledger."""

    PENDING = "pending"
    """Waits for its first attempt, or for the next one after a failure."""
    DELIVERED = "delivered"
    """The target accepted the message."""
    FAILED = "failed"
    """Given up: the target refused it for good, or did not accept it for too long."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification on its way to one target."""

    id: int
    kind: NotificationKind
    body: str  # JSON, the same in every attempt
    attempts: int  # so far
    created_at: datetime
    available_at: datetime

    @property
    def message_id(self) -> str:
        """The idempotency key: equal in every attempt, so that a receiver can drop repeats."""
        return f"msg_{self.created_at.timestamp() * 1000:.0f}_{self.id}"


@dataclass(frozen=True, slots=True)
class DeliverySucceeded:
    """The target accepted the message."""


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The target did not accept the message. `final`: a retry would be useless or harmful."""

    error: str
    final: bool = False


Outcome = DeliverySucceeded | DeliveryFailed


def compute_next_try(
    delivery: Delivery, *, now: datetime, give_up: timedelta, backoff_settings: BackoffSettings
) -> datetime | None:
    """Return the time of the next attempt after one more failure; None: no more attempts.

    `give_up`: the age at which a delivery is given up.
    """
    then = now + timedelta(seconds=compute_backoff(delivery.attempts + 1, backoff_settings))
    return then if then - delivery.created_at <= give_up else None


def word_message(kind: NotificationKind, data: Mapping[str, object]) -> tuple[str, str]:
    """A title and a sentence, for people."""
    known = {key: value for key, value in data.items() if value is not None}
    match kind:
        case NotificationKind.JOB_COMPLETED:
            return (
                f"Transcribed: {known.get('path')}",
                f"Job {known.get('job_id')} is in {_format_artifacts(data)}.",
            )
        case NotificationKind.JOB_FAILED:
            return (
                f"Failed: {known.get('path')}",
                f"Job {known.get('job_id')}, {known.get('error_code')}: {known.get('error')}",
            )
        case NotificationKind.BATCH_COMPLETED:
            counts = ", ".join(
                f"{known[name]} {name}"
                for name in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED)
                if known.get(name)
            )
            return (
                f"Batch done: {known.get('batch')}",
                f"{counts or 'nothing'}, of {known.get('total', 0)}.",
            )
        case NotificationKind.DEVICE_OPEN:
            return (
                f"Device unavailable: {known.get('device')}",
                f"{known.get('error')}; {known.get('action')}",
            )


def list_fields() -> tuple[str, ...]:
    """Return the fields that a user's command may have in its arguments, as `{field}`.

    A format stands for the path of the file in that format.
    """
    return (*_JOB_FIELDS, *FORMATS)


def fill_command(command: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """Return the arguments with each `{field}` replaced by its value, empty if the job lacks it.

    No shell interprets the result.
    """
    return [_FIELD.sub(lambda found: fields.get(found[1], ""), argument) for argument in command]


def check_command(command: Sequence[str]) -> Sequence[str]:
    """Return the command. Raises ValueError, with a message for users, on an unknown field."""
    for name in (name for argument in command for name in _FIELD.findall(argument)):
        if name not in list_fields():
            raise ValueError(
                f"unknown field {{{name}}}; allowed are "
                + ", ".join(f"{{{known}}}" for known in list_fields())
            )
    return command


def _format_artifacts(data: Mapping[str, object]) -> str:
    artifacts = data.get("artifacts")
    return (
        ", ".join(map(str, artifacts.values()))
        if isinstance(artifacts, Mapping) and artifacts
        else "the outbox"
    )
