"""The log: readable on a terminal, JSON lines elsewhere, with the job on every line.

The wording of all state changes is in this module.
"""

import json
import logging
import os
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
from speakeasyd.events import Event
from speakeasyd.log_repeats import CountingHandler

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
    handler.setFormatter(JournalFormatter(formatter) if _is_journal(stream) else formatter)
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
    """Adds the syslog priority to each line, as systemd's journal expects it: see sd-daemon(3)."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(
            f"<{priority}>{line}" for line in self._formatter.format(record).splitlines()
        )


_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (0, 7),
)
"""Syslog priorities by logging level."""


def _is_journal(stream: TextIO) -> bool:
    """Return whether the stream goes to systemd's journal.

    The journal gives the stream's device and inode in JOURNAL_STREAM.
    """
    journal_stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        state = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{state.st_dev}:{state.st_ino}"


@dataclass(frozen=True, slots=True)
class Wording:
    level: int
    text: str  # `{name}`: field of the event's data; empty if the event lacks it


_QUIET, _PLAIN, _LOUD = logging.DEBUG, logging.INFO, logging.WARNING

WORDS: Mapping[str, Wording] = {
    "job.added": Wording(_PLAIN, "new: {path}"),
    "job.skipped": Wording(_PLAIN, "skipped, the same as job {duplicate_of}: {path}"),
    "job.claimed": Wording(_PLAIN, "started: {path}, attempt {attempt}"),
    "job.lent": Wording(_PLAIN, "the transcript of job {lender} is reused: {path}"),
    "job.noted": Wording(_QUIET, "updated: {rest}"),
    "job.transcribed": Wording(_QUIET, "transcribed all {audio_seconds} s: {path}"),
    "job.completed": Wording(_PLAIN, "completed: {path} -> {artifacts}"),
    "job.failed": Wording(_LOUD, "failed ({error_code}): {path}: {error}"),
    "job.cancelled": Wording(_PLAIN, "cancelled: {path}: {error}"),
    "job.released": Wording(_PLAIN, "returned to the queue: {path}: {error}"),
    "job.retried": Wording(_PLAIN, "retry requested by a user: {path}"),
    "job.retry_failed": Wording(
        _LOUD, "the retry failed ({error_code}), the earlier transcript is kept: {path}: {error}"
    ),
    "job.retry_cancelled": Wording(
        _PLAIN, "the retry was cancelled, the earlier transcript is kept: {path}"
    ),
    "job.recovered": Wording(_PLAIN, "continues after a restart: {path}"),
    "chunk.done": Wording(_QUIET, "chunk {chunk} is done, up to {end} s"),
    "chunk.struck": Wording(_LOUD, "a worker died on chunk {chunk}, strike {strikes}"),
    "incident.opened": Wording(_LOUD, "{device} failed: {error}; {action}"),
    "incident.resolved": Wording(
        _PLAIN, "incident {incident_id} was resolved after {cost_seconds} s"
    ),
    "model.held": Wording(
        _LOUD, "{jobs} jobs for the model {model} wait until {available_at}: {error}"
    ),
    "source.put_away": Wording(_PLAIN, "{path}: {done}"),
    "source.kept": Wording(_PLAIN, "{path} is not moved: {reason}"),
    "source.stuck": Wording(_LOUD, "cannot move or delete the source {path}: {error}"),
    "daemon.reload_asked": Wording(_PLAIN, "a user requested to reload the configuration"),
    "config.reloaded": Wording(
        _PLAIN, "configuration reloaded; changed now: {now}; needs a restart: {restart}"
    ),
    "config.refused": Wording(_LOUD, "the configuration was not reloaded: {error} {hint}"),
    "queue.paused": Wording(_LOUD, "paused ({cause}): {reason}"),
    "batch.completed": Wording(
        _PLAIN, "batch {batch} is done: {completed} of {total} completed, {failed} failed"
    ),
    "notice.postponed": Wording(
        _LOUD, "could not notify {target} of {about}: {error}; next try at {again_at}"
    ),
    "notice.failed": Wording(_LOUD, "gave up notifying {target} of {about}: {error}"),
    "recorder.started": Wording(_PLAIN, "recording from {device}"),
    "recorder.overflow": Wording(
        _LOUD, "audio was lost {overflows} times: the machine is too slow for {device}"
    ),
    "recorder.stopped": Wording(_PLAIN, "recorded {seconds} s: {file} {reason}"),
    "recorder.failed": Wording(
        _LOUD, "the recording ended early after {seconds} s: {reason} {file}"
    ),
    "failure.begun": Wording(_LOUD, "{name} fails: {error}"),
    "failure.ended": Wording(_PLAIN, "{name} works again"),
    "queue.resumed": Wording(_PLAIN, "resumed ({cause}); no longer: {reason}"),
}
_ENDS = frozenset(
    {
        "job.completed",
        "job.failed",
        "job.cancelled",
        "job.skipped",
        "job.retry_failed",
        "job.retry_cancelled",
    }
)


class EventLogger:
    """Writes a log line for each event. Call it with every event of the hub.

    It remembers the paths of unfinished jobs, because most events have only the job's id.
    """

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def __call__(self, event: Event) -> None:
        wording = WORDS.get(event.kind) or Wording(_QUIET, f"{event.kind}: {{rest}}")
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
        if event.kind in _ENDS:
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
            return ", ".join(map(_format_value, value))
        case _:
            return str(value)
