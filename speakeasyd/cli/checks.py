"""What `doctor` looks at on this machine."""

import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speakeasyd import __version__
from speakeasyd.cli.cluster_checks import check_cluster
from speakeasyd.cli.engine_checks import check_devices
from speakeasyd.cli.finding import Check, Finding, Level
from speakeasyd.clock import format_utc
from speakeasyd.config import Settings
from speakeasyd.errors import LedgerMissing
from speakeasyd.ledger.failures import find_owner
from speakeasyd.ledger.job_lists import count_jobs
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.migrate import require_local_filesystem
from speakeasyd.ledger.overview import find_pauses
from speakeasyd.ledger.readonly import LEDGER, read_ledger
from speakeasyd.mounts import SILENT, find_filesystem_type
from speakeasyd.system.drives import is_mapped_drive

LOW, EMPTY = 2 << 30, 200 << 20  # bytes of free disk
# Folders that a default kernel of some years ago watches; large archives have more
FEW_WATCHES = 65536
_WAL_FLAW = (
    (3, 7, 0),
    (3, 51, 2),
)  # SQLite's versions that can damage a ledger if two connections checkpoint
_PACKAGES = ("faster-whisper", "ctranslate2", "av", "sqlalchemy", "watchdog", "torch")


def check_program(_settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "speakeasyd",
        Level.OK,
        f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
    )
    yield Finding("libraries", Level.OK, ", ".join(filter(None, map(_find_version, _PACKAGES))))


def _find_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def check_sqlite(_settings: Settings) -> Iterator[Finding]:
    flawed = _WAL_FLAW[0] <= sqlite3.sqlite_version_info <= _WAL_FLAW[1]
    note = (
        ": before 3.51.3 it has a flaw in WAL mode that speakeasyd avoids; "
        "other programs should only read the ledger"
    )
    yield Finding("SQLite", Level.OK, sqlite3.sqlite_version + (note if flawed else ""))


def check_user(settings: Settings) -> Iterator[Finding]:
    """What this user may do tells little about the daemon's user, nor what root may do."""
    if owner := _find_other_owner(settings.state):
        text = f"the ledger belongs to {owner}: this shows what you may read and write, not {owner}"
        yield Finding("user", Level.WARN, text, f"sudo -u {owner} speakeasyd doctor")


def _find_other_owner(state: Path) -> str:
    """Return the user to whom the ledger belongs; empty if it is this user or root."""
    if sys.platform == "win32" or not os.path.exists(state):  # noqa: PTH110 - never raises
        return ""
    if state.stat().st_uid in {os.geteuid(), 0}:
        return ""
    return find_owner(state) or "another user"


def check_daemon(settings: Settings) -> Iterator[Finding]:
    up = find_holder(settings.state)
    yield Finding("daemon", Level.OK, f"up: {up}" if up else "down")
    for cause, reason in find_pauses(settings.state).items() if up else ():
        yield Finding("queue", Level.WARN, f"paused ({cause}): {reason}")


def check_ledger(settings: Settings) -> Iterator[Finding]:
    file = settings.state / LEDGER
    try:
        require_local_filesystem(file)
        jobs = read_ledger(settings.state, count_jobs)
    except LedgerMissing:
        yield Finding("ledger", Level.OK, f"{file}, not there before the first start")
    else:
        size = file.stat().st_size / 2**20
        yield Finding("ledger", Level.OK, f"{file}, {jobs.number} jobs, {size:.1f} MB")
        yield _check_clock(jobs.newest_at)


def _check_clock(last: str | None) -> Finding:
    """Times in the ledger must not run ahead of the clock."""
    now = datetime.now(UTC)
    if last is not None and last > format_utc(now):
        return Finding(
            "clock",
            Level.WARN,
            f"it shows {format_utc(now)}, but the ledger has {last}",
            "Set the clock.",
        )
    return Finding("clock", Level.OK, format_utc(now))


def check_folders(settings: Settings) -> Iterator[Finding]:
    owner = _find_other_owner(settings.state)
    for finding in _check_all_folders(settings):
        if owner and finding.level is Level.FAIL:
            yield replace(finding, level=Level.WARN, hint=f"It matters whether {owner} may do so.")
        else:
            yield finding


def _check_all_folders(settings: Settings) -> Iterator[Finding]:
    yield _check_writable("state folder", settings.state)
    for inbox in settings.inboxes:
        to_be_made = inbox.is_default and not os.path.exists(inbox.path)  # noqa: PTH110 - never raises
        yield (_check_writable if to_be_made else _check_readable)(
            f"inbox {inbox.name}", inbox.path
        )
        for key, folder in inbox.targets.items():
            yield _check_writable(f"{key} of {inbox.name}", folder)


def _check_readable(what: str, folder: Path) -> Finding:
    try:
        with os.scandir(folder):
            pass
    except FileNotFoundError:
        return Finding(what, Level.WARN, f"{folder} is not there", "Create it, or mount it.")
    except OSError as error:
        return Finding(
            what,
            Level.FAIL,
            f"{folder} cannot be read: {error.strerror}",
            _describe_permission(folder),
        )
    kind = find_filesystem_type(folder)
    note = f", on {kind}: no events, so it is scanned every few seconds" if kind in SILENT else ""
    return Finding(what, Level.OK, f"{folder}{note}")


def _check_writable(what: str, folder: Path) -> Finding:
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            what,
            Level.FAIL,
            f"{folder} cannot be written: {error.strerror}",
            _describe_permission(folder),
        )
    free = shutil.disk_usage(there).free
    room = f"{folder}{'' if there == folder else ' (to be made)'}, {free / 2**30:.1f} GB free"
    if free < LOW:
        return Finding(
            what,
            Level.FAIL if free < EMPTY else Level.WARN,
            room,
            "Make room: a full disk pauses the queue.",
        )
    return Finding(what, Level.OK, room)


def check_mapped_drives(settings: Settings) -> Iterator[Finding]:
    """A Windows service runs in a session of its own (session 0), without the drives of users."""
    folders = [settings.state]
    for inbox in settings.inboxes:
        folders += [inbox.path, *inbox.targets.values()]
    mapped = [str(folder) for folder in folders if is_mapped_drive(str(folder))]
    if mapped:
        text = f"{', '.join(mapped)}: a service of the system does not see mapped drives"
        hint = "Write \\\\server\\share in the configuration, or use: speakeasyd service install --user"
        yield Finding("drives", Level.WARN, text, hint)


def check_privacy(settings: Settings) -> Iterator[Finding]:
    """Who else on this machine may read transcripts."""
    if sys.platform == "win32":
        return
    if os.path.exists(settings.state) and (  # noqa: PTH110 - never raises
        finding := find_readers("privacy", settings.state, "every transcript")
    ):
        yield finding


def find_readers(what: str, path: Path, content: str) -> Finding | None:
    """A warning where every user of this machine may read a file, or look into a folder."""
    if not stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        return None
    text = f"{path} is open to every user of this machine, and holds {content}"
    return Finding(what, Level.WARN, text, f"chmod -R o-rwx {path}")


def _describe_permission(folder: Path) -> str:
    if sys.platform == "darwin":
        return "Allow it in System Settings, Privacy & Security, Files and Folders."
    return f"Give the user that runs the daemon access to {folder}."


def check_watching(_settings: Settings) -> Iterator[Finding]:
    limit = Path("/proc/sys/fs/inotify/max_user_watches")
    if sys.platform == "linux" and limit.exists():
        watches = int(limit.read_text())
        few = watches < FEW_WATCHES
        hint = (
            "For inboxes with very many sub-folders: sysctl fs.inotify.max_user_watches=524288"
            if few
            else ""
        )
        yield Finding("inotify", Level.OK, f"up to {watches} folders can be watched", hint)


CHECKS: tuple[Check, ...] = (
    check_program,
    check_user,
    check_sqlite,
    check_daemon,
    check_ledger,
    check_folders,
    check_mapped_drives,
    check_privacy,
    check_watching,
    check_devices,
    check_cluster,
)
