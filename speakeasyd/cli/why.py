"""`speakeasyd why`"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from speakeasyd import openness
from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import Flags, load_settings
from speakeasyd.cli.output import console, escape_strings, format_local_time, print_json
from speakeasyd.clock import format_utc
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.debounce import NO_PERMISSION
from speakeasyd.domain.error_hints import find_hint
from speakeasyd.domain.job import Status
from speakeasyd.domain.transcript import INCOMPLETE, PARTIAL, WarningKind
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.ledger.file_records import (
    FileRecord,
    find_artifact_source,
    list_watched_inboxes,
    load_file_record,
)
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.overview import find_pauses
from speakeasyd.ledger.readonly import LEDGER, read_ledger
from speakeasyd.ledger.rows import Row
from speakeasyd.system.users import may_read

_DENIED = frozenset(problem.value for problem in NO_PERMISSION)


class Presence(Enum):
    """Whether a file exists, as far as the user can see."""

    THERE = "there"
    ABSENT = "absent"
    HIDDEN = "hidden"
    """In a folder that this user may not look into."""


@dataclass(slots=True)
class FileReport:
    """What is known about a file, from the outside in."""

    file: str
    inbox: str | None = None
    facts: list[str] = field(default_factory=list)
    jobs: list[Row] = field(default_factory=list)
    next: str = ""

    @property
    def is_known(self) -> bool:
        return bool(self.jobs or self.facts)


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", readable=False, help="A file in an inbox, or a transcript of one."
        ),
    ],
    *,
    config: given.Config = None,
    state: given.State = None,
    inbox: given.Inbox = None,
    outbox: given.Outbox = None,
    as_json: given.Json = False,
) -> int:
    """Show what is known about a file: noticed, ignored, settling, transcribed or failed, and what happens next.

    Exit status: 0 if anything is known about it, else 1.
    """
    settings = load_settings(config, Flags(state=state, inbox=inbox, outbox=outbox))
    known = investigate_file(settings, Path(os.path.abspath(file)))  # noqa: PTH100 - a link is asked about, not its target
    if as_json:
        print_json(asdict(known))
    else:
        _print_report(known)
    return 0 if known.is_known else 1


def investigate_file(settings: Settings, file: Path) -> FileReport:
    known = FileReport(str(file))
    inbox = next(
        (inbox for inbox in _list_inboxes(settings) if file.is_relative_to(inbox.path)), None
    )
    if inbox is None:
        _investigate_outside(settings, file, known)
        return known
    path = os.fsencode(file.relative_to(inbox.path).as_posix())
    known.inbox = inbox.name
    record = _load_record(settings, inbox.name, path)
    known.jobs = record.jobs
    presence = _describe_presence(file)
    ignored = _why_ignored(settings, inbox, file, path)
    if ignored:
        known.facts.append(f"it is ignored: {ignored}")
    for arrival in record.arrivals:
        known.facts.append(
            f"seen since {format_local_time(arrival['since'])}, {arrival['size']} bytes: {arrival['reason']}"
        )
    writer = openness.find_writer(file) if presence is Presence.THERE and not ignored else None
    if writer and not known.facts:
        known.facts.append(f"it is {writer.value}")
    denied = "" if ignored or known.jobs else _why_denied(settings, inbox, file, record)
    if denied:
        known.facts.append(denied)
    if presence is Presence.HIDDEN:
        known.facts.append("you have no permission to read it")
    elif not ignored and presence is Presence.THERE and not known.is_known:
        known.facts.append("it is in the inbox and has no job yet")
    if presence is Presence.THERE and known.jobs and (kept := _why_kept(inbox, known.jobs[-1])):
        known.facts.append(kept)
    if known.jobs:
        known.next = _predict_for_job(settings, known.jobs[-1])
    else:
        known.next = _predict_next(
            settings,
            ignored=bool(ignored),
            denied=bool(denied) or any(row["reason"] in _DENIED for row in record.arrivals),
            is_written=bool(writer),
            presence=presence,
        )
    return known


def _describe_presence(file: Path) -> Presence:
    try:
        file.lstat()
    except PermissionError:
        return Presence.HIDDEN
    except OSError:
        return Presence.ABSENT
    return Presence.THERE


def _why_denied(settings: Settings, inbox: InboxSettings, file: Path, record: FileRecord) -> str:
    """What keeps the daemon from reading it, as far as it said so or the permissions tell; empty for nothing."""
    relative = file.relative_to(inbox.path)
    path = os.fsencode(relative.as_posix())
    above = {parent.as_posix() for parent in relative.parents}
    for place in record.unreadable:
        if place in above or place == path.decode("utf-8", "backslashreplace"):
            return f"the daemon may not look into {inbox.path / place}"
    up = find_holder(settings.state)
    if up is None:
        return ""
    parts = [file, *file.parents]
    outside_in = reversed(parts[: parts.index(inbox.path)])
    denied = next((part for part in outside_in if may_read(up.pid, part) is False), None)
    return f"the daemon's user may not read {denied}" if denied else ""


def _why_kept(inbox: InboxSettings, job: Row) -> str:
    """Return why the source of a completed job was not disposed of; empty if it should be kept."""
    if job["status"] != Status.COMPLETED or inbox.sources == "keep":
        return ""
    holds = PARTIAL if inbox.sources == "delete" else INCOMPLETE
    if kinds := sorted(_describe_kinds(job) & holds):
        return f"it is kept although sources = {inbox.sources!r}: its transcript has not all of it ({', '.join(kinds)})"
    return ""


def _describe_kinds(job: Row) -> frozenset[WarningKind]:
    return frozenset(map(WarningKind, json.loads(str(job["warning_kinds"] or "[]"))))


def _list_inboxes(settings: Settings) -> Iterator[InboxSettings]:
    """Those that the daemon of this ledger watched last, which flags may have named, and those of the configuration."""
    configured = {inbox.name: inbox for inbox in settings.inboxes}
    watched = read_ledger(settings.state, list_watched_inboxes) if _has_ledger(settings) else {}
    for name, path in watched.items():
        like = configured.get(name, settings.inboxes[0])
        yield like.model_copy(update={"name": name, "path": Path(path)})
    yield from settings.inboxes


def _investigate_outside(settings: Settings, file: Path, known: FileReport) -> None:
    """Not in an inbox; it may be a transcript of a file that is."""
    source = (
        read_ledger(settings.state, find_artifact_source, file.as_posix())
        if _has_ledger(settings)
        else None
    )
    if source:
        known.inbox, path = source
        known.jobs = _load_record(settings, known.inbox, path).jobs
        known.facts.append(f"it is a transcript of {known.jobs[-1]['path']}")
        known.next = _predict_for_job(settings, known.jobs[-1])
    else:
        places = ", ".join(dict.fromkeys(str(inbox.path) for inbox in _list_inboxes(settings)))
        known.next = f"It is in no inbox. Copy it into one: {places}"


def _why_ignored(settings: Settings, inbox: InboxSettings, file: Path, path: bytes) -> str | None:
    parents = [file, *file.parents]
    links = [place for place in parents[: parents.index(inbox.path)] if os.path.islink(place)]  # noqa: PTH114 - never raises
    if links:
        return f"{links[-1]} is a symbolic link, and links are not followed"
    if _describe_presence(file) is Presence.THERE and not stat.S_ISREG(file.lstat().st_mode):
        return "it is not a regular file"
    return InboxRules.for_inbox(settings, inbox).why_ignored(path)


def _predict_next(
    settings: Settings, *, ignored: bool, denied: bool, is_written: bool, presence: Presence
) -> str:
    if ignored:
        return "Nothing, unless the name or the configuration changes."
    if presence is Presence.ABSENT:
        return "No such file, and no record of it."
    if denied:
        return "Let the daemon's user read it: it is taken a few seconds after that, without being touched."
    if not find_holder(settings.state):
        return "The daemon is down. Start it: speakeasyd run"
    if is_written:
        return "It is taken once that program has closed it."
    condition = (
        "If it is there and the daemon may read it, it" if presence is Presence.HIDDEN else "It"
    )
    settle_s = settings.watch.settle_s
    return f"{condition} is taken once it has been still for {settle_s:g} s, at the next scan at the latest."


def _describe_wait(job: Row) -> bool:
    """Whether its time is still to come, by a clock that may have been set back since it was added."""
    return str(job["available_at"]) > max(format_utc(datetime.now(UTC)), str(job["created_at"]))


def _predict_for_job(settings: Settings, job: Row) -> str:
    pauses = find_pauses(settings.state).items()
    paused = next((reason for cause, reason in pauses if cause.covers(str(job["inbox"]))), "")
    match job["status"]:
        case Status.PENDING | Status.PROCESSING if not find_holder(settings.state):
            words = "The daemon is down; it goes on where it was when it runs again: speakeasyd run"
        case Status.PENDING if _describe_wait(job) and WarningKind.CUT in _describe_kinds(job):
            words = (
                "It ends early, and its rest may still come: what there is of it "
                f"is published at {format_local_time(job['available_at'])} unless it goes on."
            )
        case Status.PENDING if _describe_wait(job):
            words = f"It is retried at {format_local_time(job['available_at'])}."
        case Status.PENDING if paused:
            words = f"It waits in the queue, which is paused: {paused}"
        case Status.PENDING:
            words = "It is waiting in the queue."
        case Status.PROCESSING:
            words = f"It is being transcribed, {job['progress']:.0%} so far."
        case Status.COMPLETED:
            words = f"Nothing: it is done. speakeasyd show {job['job_id']} --text"
        case Status.SKIPPED:
            words = (
                f"Nothing: job {job['duplicate_of']} has the same bytes. "
                f"To transcribe it again: speakeasyd retry {job['job_id']}"
            )
        case _:
            words = find_hint(job["error_code"]) or f"speakeasyd retry {job['job_id']}"
    return words


def _load_record(settings: Settings, inbox: str, path: bytes) -> FileRecord:
    if not _has_ledger(settings):
        return FileRecord([], [], [])
    return read_ledger(settings.state, load_file_record, inbox, path)


def _has_ledger(settings: Settings) -> bool:
    """Raises LedgerDenied where this user may not even see that."""
    return _describe_presence(settings.state / LEDGER) is not Presence.ABSENT


def _print_report(known: FileReport) -> None:
    lines = [f"inbox {known.inbox}"] if known.inbox else []
    lines += (
        [f"- {fact}" for fact in known.facts]
        + [_describe_job(job) for job in known.jobs]
        + [known.next]
    )
    file, *shown = escape_strings([known.file, *lines])
    console().print(Text(file, "bold"), *shown, sep="\n", markup=False, soft_wrap=True)


def _describe_job(job: Row) -> str:
    words = [
        f"- job {job['job_id']}: {job['status']}",
        f"since {format_local_time(job['finished_at'] or job['created_at'])}",
    ]
    words.append(f"{job['attempts']} attempts" if job["attempts"] != 1 else "1 attempt")
    words += [
        f"{name}: {job[name]}" for name in ("preset", "error_code", "error", "warning") if job[name]
    ]
    if job["superseded_by"]:
        words.append(f"superseded by job {job['superseded_by']}, of a newer version of the file")
    return ", ".join(words)
