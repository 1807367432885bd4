"""What others are told: the kinds of news, how they are worded, and what a command of the user gets. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from speakeasyd.domain.options import Format
from speakeasyd.domain.retry import BackoffSettings, compute_backoff

Kind = Literal["job.completed", "job.failed", "batch.completed", "device.open"]
FIELDS = ("job_id", "source", "language", "audio_seconds", "inbox", *get_args(Format))
"""What a command of the user may have as `{field}` in its arguments. Formats stand for the path of that file."""

_FIELD = re.compile(r"{(\w+)}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to one target."""

    id: int
    kind: str
    body: str  # JSON, the same in every attempt
    attempts: int  # so far
    created_at: datetime
    available_at: datetime

    @property
    def message_id(self) -> str:
        """The same in every attempt: by it a receiver knows what it has had already."""
        return f"msg_{self.created_at.timestamp() * 1000:.0f}_{self.id}"


@dataclass(frozen=True, slots=True)
class DeliverySucceeded:
    """The target has it."""


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The target does not have it. `final`: trying again would be of no use, or would do harm."""

    error: str
    final: bool = False


Outcome = DeliverySucceeded | DeliveryFailed


def compute_next_try(
    delivery: Delivery, *, now: datetime, give_up: timedelta, waits: BackoffSettings
) -> datetime | None:
    """When to try again after one more failure; None: it is given up."""
    then = now + timedelta(seconds=compute_backoff(delivery.attempts + 1, waits))
    return then if then - delivery.created_at <= give_up else None


def word_message(kind: str, data: Mapping[str, object]) -> tuple[str, str]:
    """A title and a sentence, for people."""
    said = {key: value for key, value in data.items() if value is not None}
    match kind:
        case "job.completed":
            return (
                f"Transcribed: {said.get('path')}",
                f"Job {said.get('job_id')} is in {_format_artifacts(data)}.",
            )
        case "job.failed":
            return (
                f"Failed: {said.get('path')}",
                f"Job {said.get('job_id')}, {said.get('error_code')}: {said.get('error')}",
            )
        case "batch.completed":
            counts = ", ".join(
                f"{said[name]} {name}"
                for name in ("completed", "failed", "cancelled", "skipped")
                if said.get(name)
            )
            return (
                f"Batch done: {said.get('batch')}",
                f"{counts or 'nothing'}, of {said.get('total', 0)}.",
            )
        case "device.open":
            return (
                f"Device out of work: {said.get('device')}",
                f"{said.get('error')}; {said.get('action')}",
            )
        case _:
            return kind, ", ".join(f"{key} {value}" for key, value in said.items())


def fill_command(command: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """The arguments with each `{field}` put in; one that the job lacks is empty. No shell reads them."""
    return [_FIELD.sub(lambda found: fields.get(found[1], ""), argument) for argument in command]


def check_command(command: Sequence[str]) -> Sequence[str]:
    """Raises ValueError, in words for users."""
    for name in (name for argument in command for name in _FIELD.findall(argument)):
        if name not in FIELDS:
            raise ValueError(
                f"unknown field {{{name}}}; there are {', '.join(f'{{{known}}}' for known in FIELDS)}"
            )
    return command


def _format_artifacts(data: Mapping[str, object]) -> str:
    artifacts = data.get("artifacts")
    return (
        ", ".join(map(str, artifacts.values()))
        if isinstance(artifacts, Mapping) and artifacts
        else "the outbox"
    )
