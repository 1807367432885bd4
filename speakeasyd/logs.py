"""The log: readable on a terminal, JSON lines elsewhere, with the job on every line.

The wording of all state changes is in this module.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from speakeasyd.clock import format_utc
from speakeasyd.config import LogSettings
from speakeasyd.domain.escaping import escape_json, escape_line, escape_text
from speakeasyd.domain.event_kinds import JOB_ENDED, EventKind
from speakeasyd.events import Event
from speakeasyd.log_repeats import CountingHandler
from speakeasyd.system.journal import add_priority, is_journal

log = logging.getLogger("speakeasyd")

_job: ContextVar[int | None] = ContextVar("job", default=None)


@contextmanager
def log_job(job_id: int) -> Iterator[None]:
    """Add this job to every log record that is made inside the `with` block, by any module."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


def configure_logging(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Send the log to `stream` (default: stderr). Replaces the handlers of the root logger."""
    stream = stream or sys.stderr
    human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
    handler = CountingHandler(stream)
    formatter = HumanFormatter() if human else JsonFormatter()
    handler.setFormatter(JournalFormatter(formatter) if is_journal(stream) else formatter)
    handler.addFilter(_add_job_to_record)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # level for log records of libraries
    set_level(settings)


def set_level(settings: LogSettings) -> None:
    log.setLevel(settings.level.upper())


def _add_job_to_record(record: logging.LogRecord) -> bool:
    record.job = getattr(record, "job", None) or _job.get()
    return True


class HumanFormatter(logging.Formatter):
    """`14:03:22 warning  job 12  what happened`"""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        job = getattr(record, "job", None)
        about = f"job {job}  " if job else ""
        message = escape_line(record.getMessage())
        line = f"{when} {record.levelname.lower():<8} {about}{message}"
        return (
            f"{line}\n{escape_text(self.formatException(record.exc_info))}"
            if record.exc_info
            else line
        )


class JsonFormatter(logging.Formatter):
    """One JSON object per line; records of state changes have `event` and `data`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": format_utc(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "job": getattr(record, "job", None),
            "message": record.getMessage(),
        }
        if event := getattr(record, "event", None):
            line |= {"event": event, "data": getattr(record, "data", {})}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return escape_json(json.dumps(line, ensure_ascii=False, default=str))


class JournalFormatter(logging.Formatter):
    """Adds the syslog priority to each line, as systemd's journal expects it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return add_priority(self._formatter.format(record), record.levelno)


@dataclass(frozen=True, slots=True)
class Wording:
    level: int
    text: str  # `{name}`: field of the event's data; empty if the event lacks it


_QUIET, _PLAIN, _LOUD = logging.DEBUG, logging.INFO, logging.WARNING

WORDS: Mapping[EventKind, Wording] = {
    EventKind.JOB_ADDED: Wording(_PLAIN, "new: {path}"),
    EventKind.JOB_SKIPPED: Wording(_PLAIN, "skipped, the same as job {duplicate_of}: {path}"),
    EventKind.JOB_CLAIMED: Wording(_PLAIN, "started: {path}, attempt {attempt}"),
    EventKind.JOB_LENT: Wording(_PLAIN, "the transcript of job {lender} is reused: {path}"),
    EventKind.JOB_NOTED: Wording(_QUIET, "updated: {rest}"),
    EventKind.JOB_TRANSCRIBED: Wording(_QUIET, "transcribed all {audio_seconds} s: {path}"),
    EventKind.JOB_COMPLETED: Wording(_PLAIN, "completed: {path} -> {artifacts}"),
    EventKind.JOB_FAILED: Wording(_LOUD, "failed ({error_code}): {path}: {error}"),
    EventKind.JOB_CANCELLED: Wording(_PLAIN, "cancelled: {path}: {error}"),
    EventKind.JOB_RELEASED: Wording(_PLAIN, "returned to the queue: {path}: {error}"),
    EventKind.JOB_RETRIED: Wording(_PLAIN, "retry requested by a user: {path}"),
    EventKind.JOB_RETRY_FAILED: Wording(
        _LOUD, "the retry failed ({error_code}), the earlier transcript is kept: {path}: {error}"
    ),
    EventKind.JOB_RETRY_CANCELLED: Wording(
        _PLAIN, "the retry was cancelled, the earlier transcript is kept: {path}"
    ),
    EventKind.JOB_SPEAKERS_CHANGED: Wording(
        _PLAIN, "a user changed the speakers, the transcript is written again: {path}"
    ),
    EventKind.JOB_RECOVERED: Wording(_PLAIN, "continues after a restart: {path}"),
    EventKind.CHUNK_DONE: Wording(_QUIET, "chunk {chunk} is done, up to {end} s"),
    EventKind.CHUNK_STRUCK: Wording(_LOUD, "a worker died on chunk {chunk}, strike {strikes}"),
    EventKind.INCIDENT_OPENED: Wording(_LOUD, "{device} failed: {error}; {action}"),
    EventKind.INCIDENT_RESOLVED: Wording(
        _PLAIN, "incident {incident_id} was resolved after {cost_seconds} s"
    ),
    EventKind.MODEL_HELD: Wording(
        _LOUD, "{jobs} jobs for the model {model} wait until {available_at}: {error}"
    ),
    EventKind.SOURCE_PUT_AWAY: Wording(_PLAIN, "{path}: {done}"),
    EventKind.SOURCE_KEPT: Wording(_PLAIN, "{path} is not moved: {reason}"),
    EventKind.SOURCE_STUCK: Wording(_LOUD, "cannot move or delete the source {path}: {error}"),
    EventKind.RELOAD_REQUESTED: Wording(_PLAIN, "a user requested to reload the configuration"),
    EventKind.PAUSE_REQUESTED: Wording(_QUIET, "a user requested a pause"),
    EventKind.RESUME_REQUESTED: Wording(_QUIET, "a user requested to resume"),
    EventKind.STOP_REQUESTED: Wording(_PLAIN, "a user requested a stop"),
    EventKind.CONFIG_RELOADED: Wording(
        _PLAIN, "configuration reloaded; changed now: {now}; needs a restart: {restart}"
    ),
    EventKind.CONFIG_REFUSED: Wording(_LOUD, "the configuration was not reloaded: {error} {hint}"),
    EventKind.QUEUE_PAUSED: Wording(_LOUD, "paused ({cause}): {reason}"),
    EventKind.BATCH_COMPLETED: Wording(
        _PLAIN, "batch {batch} is done: {completed} of {total} completed, {failed} failed"
    ),
    EventKind.NOTICE_POSTPONED: Wording(
        _LOUD, "could not notify {target} of {about}: {error}; next try at {again_at}"
    ),
    EventKind.NOTICE_FAILED: Wording(_LOUD, "gave up notifying {target} of {about}: {error}"),
    EventKind.RECORDER_STARTED: Wording(_PLAIN, "recording from {device}"),
    EventKind.RECORDER_LEVEL: Wording(_QUIET, "recording, {seconds} s, {peak_db} dB"),
    EventKind.RECORDER_OVERFLOW: Wording(
        _LOUD, "audio was lost {overflows} times: the machine is too slow for {device}"
    ),
    EventKind.RECORDER_STOPPED: Wording(_PLAIN, "recorded {seconds} s: {file} {reason}"),
    EventKind.RECORDER_FAILED: Wording(
        _LOUD, "the recording ended early after {seconds} s: {reason} {file}"
    ),
    EventKind.FAILURE_BEGUN: Wording(_LOUD, "{name} fails: {error}"),
    EventKind.FAILURE_ENDED: Wording(_PLAIN, "{name} works again"),
    EventKind.QUEUE_RESUMED: Wording(_PLAIN, "resumed ({cause}); no longer: {reason}"),
}


class EventLogger:
    """Writes a log line for each event. Call it with every event of the hub.

    It remembers the paths of unfinished jobs, because most events have only the job's id.
    """

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def __call__(self, event: Event) -> None:
        wording = WORDS[event.kind]
        if log.isEnabledFor(wording.level):
            text = wording.text.format_map(
                _Fields({"path": self._format_path(event), **event.data})
            ).removesuffix(": ")
            extra = {"job": event.job_id, "event": event.kind, "data": dict(event.data)}
            log.log(wording.level, "%s", text, extra=extra)
        self._remember_path(event)

    def _format_path(self, event: Event) -> str:
        return self._paths.get(event.job_id, "") if event.job_id else ""

    def _remember_path(self, event: Event) -> None:
        if event.job_id is None:
            return
        if event.kind in JOB_ENDED:
            self._paths.pop(event.job_id, None)
        elif path := event.data.get("path"):
            self._paths[event.job_id] = str(path)


class _Fields(dict[str, object]):
    """The data of an event, formatted for a log line.

    Lists are joined by commas, numbers are rounded, missing fields are empty. `rest` stands for all
    fields.
    """

    def __missing__(self, name: str) -> str:
        if name == "rest":
            return ", ".join(
                f"{key} {_format_value(value)}"
                for key, value in self.items()
                if value not in (None, "")
            )
        return ""

    def __getitem__(self, name: str) -> object:
        return _format_value(super().__getitem__(name))


def _format_value(value: object) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            if not value:
                return "nothing"
            return ", ".join(map(_format_value, value))
        case _:
            return str(value)
