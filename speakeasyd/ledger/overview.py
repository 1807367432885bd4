"""A snapshot of the daemon for users, from the ledger and the daemon's lock."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from speakeasyd.clock import format_utc
from speakeasyd.domain.pausing import LEDGER_PAUSE, PauseCause, describe_pause, read_pauses
from speakeasyd.ledger.lock import LockHolder, find_holder
from speakeasyd.ledger.locks import find_long_hold
from speakeasyd.ledger.queries import LEDGER, query_ledger
from speakeasyd.ledger.readonly import Row

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
    WHERE status = 'processing' ORDER BY started_at, job_id LIMIT 12
"""
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
_LEFT = """
    SELECT coalesce(
        sum(coalesce(container_seconds, size * :seconds_per_byte) * (1 - progress)), 0
    ) AS seconds
    FROM jobs WHERE status IN ('pending', 'processing')
"""
_DENSITY = """
    SELECT sum(seconds) / sum(size) AS seconds_per_byte FROM (
        SELECT coalesce(audio_seconds, container_seconds) AS seconds, size FROM jobs
        WHERE seconds > 0 AND size > 0 ORDER BY id DESC LIMIT 200
    )
"""
"""Seconds of audio per byte in recent files: of a waiting file only the size is known."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    daemon: LockHolder | None
    version: str
    state: str
    counts: dict[str, int]
    batches: list[Row]
    in_work: list[Row]
    ended: list[Row]  # the latest
    workers: list[Row]
    pauses: dict[str, str]  # reason by cause
    paused_by: list[Row]  # the same: kind, name, reason, and whether it ends by itself
    failures: dict[str, str]  # error by the name of what currently fails
    inboxes: list[Row]
    waiting: list[Row]  # arrivals that wait for long
    incidents: list[Row]
    speed: float | None  # seconds of audio per second
    left_s: float | None  # seconds until the queue is empty


def take_snapshot(state: Path) -> Snapshot:
    """Read the snapshot. Raises LedgerError if there is no ledger."""
    stored = {
        str(row["key"]): json.loads(str(row["value"]))
        for row in query_ledger(state, "SELECT key, value FROM state")
    }
    daemon = find_holder(state)
    now = datetime.now(UTC)
    recently = {"since": format_utc(now - RECENT)}
    speed = _measure_speed(state, now, daemon.up_s if daemon else WINDOW_S)
    pauses = _build_pauses(state, stored.get("pauses"), daemon) if daemon else {}
    return Snapshot(
        daemon=daemon,
        version=stored.get("daemon", {}).get("version", ""),
        state=str(state / LEDGER),
        counts={name: int(str(count)) for name, count in query_ledger(state, _COUNTS)[0].items()},
        batches=query_ledger(state, _BATCHES),
        in_work=query_ledger(state, _IN_WORK),
        ended=query_ledger(state, _ENDED, recently),
        workers=stored.get("workers", []) if daemon else [],
        pauses={str(cause): reason for cause, reason in pauses.items()},
        paused_by=[describe_pause(cause, reason) for cause, reason in pauses.items()],
        failures=stored.get("failures", {}) if daemon else {},
        inboxes=_build_inbox_rows(stored),
        waiting=query_ledger(state, "SELECT inbox, path, since, reason FROM arrivals LIMIT 5"),
        incidents=query_ledger(state, _INCIDENTS, recently),
        speed=speed,
        left_s=_estimate_seconds_left(state, speed),
    )


def find_pauses(state: Path) -> dict[PauseCause, str]:
    """Return the reasons of the running daemon's pauses. Raises LedgerError if there is no ledger."""
    daemon = find_holder(state)
    if daemon is None:
        return {}
    rows = query_ledger(state, "SELECT value FROM state WHERE key = 'pauses'")
    return _build_pauses(state, json.loads(str(rows[0]["value"])) if rows else None, daemon)


def _build_pauses(state: Path, stored: object, daemon: LockHolder) -> dict[PauseCause, str]:
    """Return the pauses that the daemon has stored, and the pause while the ledger is locked.

    The daemon cannot store the latter, because another program holds the lock.
    """
    pauses = read_pauses(stored)
    hold = find_long_hold(state / LEDGER, daemon=daemon.pid)
    return pauses | ({LEDGER_PAUSE: hold} if hold else {})


def _build_inbox_rows(stored: dict[str, Any]) -> list[Row]:
    return [
        {"name": key.removeprefix("inbox ")} | values
        for key, values in stored.items()
        if key.startswith("inbox ")
    ]


def _measure_speed(state: Path, now: datetime, up_s: float) -> float | None:
    """Return the seconds of audio per second over the last `WINDOW_S`; None without progress.

    Ignores events from before the daemon started or with times in the future (the clock was set).
    """
    since = now - timedelta(seconds=min(WINDOW_S, up_s))
    advance = query_ledger(state, _ADVANCE, {"since": format_utc(since), "until": format_utc(now)})[
        0
    ]
    if not advance["seconds"]:
        return None
    spans = [
        (str(row["since"]), str(row["until"]))
        for row in query_ledger(state, _WORKED, {"began": advance["began"], "now": format_utc(now)})
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


def _estimate_seconds_left(state: Path, speed: float | None) -> float | None:
    """Return the estimated seconds until the queue is empty; None if no speed is known."""
    density = query_ledger(state, _DENSITY)[0]["seconds_per_byte"]
    if not speed or density is None:
        return None
    return (
        float(str(query_ledger(state, _LEFT, {"seconds_per_byte": density})[0]["seconds"])) / speed
    )
