"""The overview of the daemon for users, from one snapshot of the ledger and the daemon's lock."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from speakeasyd.clock import format_utc
from speakeasyd.domain.pausing import LEDGER_PAUSE, PauseCause, describe_pause, read_pauses
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.ledger.lock import LockHolder, find_holder
from speakeasyd.ledger.locks import find_long_hold
from speakeasyd.ledger.readonly import LEDGER, read_ledger
from speakeasyd.ledger.rows import ReadConnection, Row, fetch_rows, fetch_value, stream_rows

WINDOW_S = 120.0  # seconds over which the speed is measured
LEAST_S = 5.0  # least seconds of work for a meaningful speed
RECENT = timedelta(hours=24)

_COUNTS = """
    SELECT coalesce(sum(pending), 0) AS pending, coalesce(sum(processing), 0) AS processing,
           coalesce(sum(completed), 0) AS completed, coalesce(sum(failed), 0) AS failed,
           coalesce(sum(cancelled), 0) AS cancelled, coalesce(sum(skipped), 0) AS skipped
    FROM batch_progress
"""
_BATCHES = """
    SELECT * FROM batch_progress ORDER BY pending + processing > 0 DESC, created_at DESC LIMIT 8
"""
_IN_WORK = """
    SELECT job_id, path, progress, device, model, language, started_at FROM job_status
    WHERE status = 'processing' ORDER BY started_at, job_id LIMIT 50
"""
_REMAINING = """
    SELECT id AS job_id, device, progress,
           coalesce(audio_seconds, container_seconds, size * :seconds_per_byte) * (1 - progress)
           AS seconds
    FROM jobs WHERE status = 'processing' AND device IS NOT NULL
"""
"""Seconds of audio that are left of each file on a device."""
_ENDED = """
    SELECT job_id, path, status, audio_seconds, error_code, finished_at FROM job_status
    WHERE finished_at > :since ORDER BY finished_at DESC LIMIT 5
"""
_INCIDENTS = """
    SELECT at, kind, device, path, error, action, resolved_at, cost_seconds, action_kind,
           summary, detail
    FROM incidents
    WHERE at > :since ORDER BY at DESC LIMIT 5
"""
_WAITING = "SELECT inbox, path, since, reason FROM arrivals LIMIT 5"
_ADVANCE = """
    SELECT sum(until - since) AS seconds, min(began) AS began FROM (
        SELECT min(at) AS began, CASE min(number) WHEN 0 THEN 0 ELSE min(start_seconds) END AS since,
               CASE WHEN transcribed THEN audio_seconds ELSE max(end_seconds) END AS until
        FROM events JOIN jobs ON jobs.id = events.job_id
        JOIN chunks ON chunks.job_id = events.job_id AND number = json_extract(data, '$.chunk')
        WHERE at > :since AND at <= :until AND kind = 'chunk.done' GROUP BY events.job_id
    )
"""
"""Seconds of audio (silence included) that were processed in a period, and since when."""
_WORKED = """
    SELECT max(started_at, :began) AS since, min(coalesce(finished_at, :now), :now) AS until
    FROM jobs WHERE started_at < :now AND (finished_at > :began OR status = 'processing')
"""
"""Periods in which jobs were processed since a time."""
_QUEUE = """
    SELECT sum(seconds) AS total, sum(seconds * (1 - progress)) AS remaining FROM (
        SELECT coalesce(container_seconds, size * :seconds_per_byte) AS seconds, progress FROM jobs
        WHERE status IN ('pending', 'processing')
    )
"""
_FINISHED = """
    SELECT coalesce(sum(audio_seconds), 0) FROM batch_progress WHERE pending + processing > 0
"""
"""Seconds of audio in the completed files of unfinished batches."""
_DENSITY = """
    SELECT sum(seconds) / sum(size) AS seconds_per_byte FROM (
        SELECT coalesce(audio_seconds, container_seconds) AS seconds, size FROM jobs
        WHERE seconds > 0 AND size > 0 ORDER BY id DESC LIMIT 200
    )
"""
"""Seconds of audio per byte in recent files: of a waiting file only the size is known."""


@dataclass(frozen=True, slots=True)
class DaemonPresence:
    """What the lock files show about the daemon of a state folder."""

    state: Path
    holder: LockHolder | None  # None: no daemon runs
    hold: str  # which program keeps the ledger locked; empty if none does


@dataclass(frozen=True, slots=True)
class Snapshot:
    daemon: LockHolder | None
    version: str
    state: str
    counts: dict[str, int]
    batches: list[Row]
    in_work: list[Row]  # with `left_s`: seconds until it is done; None as for the queue
    ended: list[Row]  # the latest
    workers: list[Row]
    pauses: dict[str, str]  # reason by cause
    paused_by: list[Row]  # the same: kind, name, reason, and whether it ends by itself
    failures: dict[str, str]  # error by the name of what currently fails
    inboxes: list[Row]
    waiting: list[Row]  # arrivals that wait for long
    incidents: list[Row]
    speed: float | None  # seconds of audio per second
    left_s: float | None  # seconds until the queue is empty; None while it is paused
    progress: float | None  # of the unfinished batches, by seconds of audio


def find_daemon(state: Path) -> DaemonPresence:
    """Look at the lock files. Blocks, for `locks.RECHECK_S` if the ledger is locked."""
    holder = find_holder(state)
    hold = find_long_hold(state / LEDGER, daemon=holder.pid) if holder else ""
    return DaemonPresence(state, holder, hold)


def take_snapshot(state: Path) -> Snapshot:
    """Return the overview with or without a running daemon. Blocks. Raises LedgerError."""
    return read_ledger(state, load_overview, find_daemon(state))


def find_pauses(state: Path) -> dict[PauseCause, str]:
    """Return the reasons of the running daemon's pauses. Blocks. Raises LedgerError."""
    daemon = find_daemon(state)
    return read_ledger(state, _load_pauses, daemon) if daemon.holder else {}


def load_overview(connection: ReadConnection, daemon: DaemonPresence) -> Snapshot:
    stored = {
        str(row["key"]): json.loads(str(row["value"]))
        for row in fetch_rows(connection, "SELECT key, value FROM state")
    }
    now = datetime.now(UTC)
    recently = {"since": format_utc(now - RECENT)}
    up = daemon.holder
    speed = _measure_speed(connection, now, up.up_s if up else WINDOW_S)
    pauses = _build_pauses(stored.get(StateKey.PAUSES), daemon) if up else {}
    is_paused = any(not cause.name for cause in pauses)
    density = fetch_value(connection, _DENSITY)
    remaining_s, progress = _measure_queue(connection, density)
    left = _estimate_jobs(connection, density, None if is_paused else speed)
    [counts] = fetch_rows(connection, _COUNTS)
    return Snapshot(
        daemon=up,
        version=stored.get(StateKey.DAEMON, {}).get("version", ""),
        state=str(daemon.state / LEDGER),
        counts={name: int(str(count)) for name, count in counts.items()},
        batches=fetch_rows(connection, _BATCHES),
        in_work=[
            row | {"left_s": left.get(row["job_id"])} for row in fetch_rows(connection, _IN_WORK)
        ],
        ended=fetch_rows(connection, _ENDED, recently),
        workers=stored.get(StateKey.WORKERS, []) if up else [],
        pauses={str(cause): reason for cause, reason in pauses.items()},
        paused_by=[describe_pause(cause, reason) for cause, reason in pauses.items()],
        failures=stored.get(StateKey.FAILURES, {}) if up else {},
        inboxes=_list_inboxes(connection),
        waiting=fetch_rows(connection, _WAITING),
        incidents=fetch_rows(connection, _INCIDENTS, recently),
        speed=speed,
        left_s=remaining_s / speed if remaining_s and speed and not is_paused else None,
        progress=progress,
    )


def load_current_overview(
    connection: ReadConnection, daemon: DaemonPresence
) -> tuple[int, Snapshot]:
    """Return the number of the newest event, and the overview at that moment."""
    newest = fetch_value(connection, "SELECT max(seq) FROM events")
    return int(str(newest or 0)), load_overview(connection, daemon)


def _load_pauses(connection: ReadConnection, daemon: DaemonPresence) -> dict[PauseCause, str]:
    stored = fetch_value(connection, "SELECT value FROM state WHERE key = 'pauses'")
    return _build_pauses(json.loads(str(stored)) if stored else None, daemon)


def _build_pauses(stored: object, daemon: DaemonPresence) -> dict[PauseCause, str]:
    """Return the pauses that the daemon has stored, and the pause while the ledger is locked.

    The daemon cannot store the latter, because another program holds the lock.
    """
    return read_pauses(stored) | ({LEDGER_PAUSE: daemon.hold} if daemon.hold else {})


def _list_inboxes(connection: ReadConnection) -> list[Row]:
    rows = fetch_rows(connection, "SELECT inbox, value FROM inbox_states ORDER BY inbox")
    return [{"name": row["inbox"]} | json.loads(str(row["value"])) for row in rows]


def _measure_speed(connection: ReadConnection, now: datetime, up_s: float) -> float | None:
    """Return the seconds of audio per second over the last `WINDOW_S`; None without progress.

    Ignores events from before the daemon started or with times in the future (the clock was set).
    """
    since = now - timedelta(seconds=min(WINDOW_S, up_s))
    period = {"since": format_utc(since), "until": format_utc(now)}
    [advance] = fetch_rows(connection, _ADVANCE, period)
    if not advance["seconds"]:
        return None
    worked = {"began": advance["began"], "now": format_utc(now)}
    spans = [
        (str(row["since"]), str(row["until"])) for row in stream_rows(connection, _WORKED, worked)
    ]
    return float(str(advance["seconds"])) / max(_covered_s(spans), LEAST_S)


def _covered_s(spans: Iterable[tuple[str, str]]) -> float:
    """Return the seconds that at least one of these periods covers: idle time does not count."""
    total, reached = 0.0, ""
    for since, until in sorted(spans):
        if until > reached:
            start = datetime.fromisoformat(max(since, reached))
            total += (datetime.fromisoformat(until) - start).total_seconds()
            reached = until
    return total


def _estimate_jobs(
    connection: ReadConnection, density: object, speed: float | None
) -> dict[object, float]:
    """Return the seconds until each file on a device is done, by job; empty without a speed.

    A device computes one file after the other: the one that it began first, then the shortest.
    `density`: seconds of audio per byte.
    """
    if not speed:
        return {}
    rows = fetch_rows(connection, _REMAINING, {"seconds_per_byte": density})
    return estimate_time_left(rows, speed)


def estimate_time_left(rows: Iterable[Row], speed: float) -> dict[object, float]:
    """Return the seconds until each of these jobs is done, by job.

    `rows`: `job_id`, `device`, `progress` and `seconds` of audio that are left; None: not known.
    `speed`: seconds of audio per second of all devices together.
    """
    known = [row for row in rows if row["seconds"] is not None]
    waited: dict[object, float] = {row["device"]: 0.0 for row in known}  # seconds of audio before
    left: dict[object, float] = {}
    for row in sorted(known, key=lambda one: (not one["progress"], float(str(one["seconds"])))):
        waited[row["device"]] += float(str(row["seconds"]))
        left[row["job_id"]] = waited[row["device"]] * len(waited) / speed
    return left


def _measure_queue(
    connection: ReadConnection, density: object
) -> tuple[float | None, float | None]:
    """Return the seconds of audio to be transcribed, and the progress of the unfinished batches.

    None: no file is in the queue, or the length of none is known.
    """
    [queue] = fetch_rows(connection, _QUEUE, {"seconds_per_byte": density})
    if not queue["total"]:
        return None, None
    remaining = float(str(queue["remaining"]))
    total = float(str(queue["total"])) + float(str(fetch_value(connection, _FINISHED)))
    return remaining, 1 - remaining / total
