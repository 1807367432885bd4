"""Queries for lists of jobs and for totals. Quick to import: no SQLAlchemy here."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from speakeasyd.ledger.rows import ReadConnection, Row, fetch_rows, fetch_value

EXAMPLES = (
    "SELECT path, status, audio_seconds, compute_seconds FROM job_status",
    "SELECT path, text FROM transcript_text",
    "SELECT batch, completed, failed, progress FROM batch_progress",
)
"""Queries for users to begin with."""

_CONDITIONS = {
    "status": "status = :status",
    "batch": "batch = :batch",
    "inbox": "inbox = :inbox",
    "preset": "preset = :preset",
    "part": "instr(lower(path), lower(:part))",
    "before": "job_id < :before",
    "ids": "job_id IN (SELECT value FROM json_each(:ids))",
    "transcribed": "has_transcript = :transcribed",
    "newest_version": "(superseded_by IS NULL) = :newest_version",
}
_BATCHES = """
    SELECT * FROM batch_progress WHERE instr(lower(batch), lower(:part))
    ORDER BY created_at DESC LIMIT :limit
"""
_HOURS = """
    SELECT * FROM (SELECT * FROM throughput_hourly ORDER BY hour DESC LIMIT :hours) ORDER BY hour
"""
_RESULTS = """
    SELECT job_status.path, status, error, warning, audio_seconds, compute_seconds, model, text
    FROM job_status LEFT JOIN transcript_text USING (job_id) ORDER BY job_status.job_id
"""
_INBOX_NOTES = "SELECT inbox, value ->> 'note' AS note FROM inbox_states"
_FAULTS = "SELECT kind, count(*) AS n FROM incidents GROUP BY kind"
_AUDIO = "SELECT coalesce(sum(audio_seconds), 0) FROM batch_progress"
_COUNT = "SELECT count(*) AS n, max(created_at) AS last FROM job_status"
_COUNTED = frozenset({"status", "batch"})
"""Filters whose numbers of jobs are kept with the batches."""


class JobOrder(StrEnum):
    """Orders of a list of jobs."""

    NEWEST = "-date"
    OLDEST = "date"
    NAME = "name"
    """The path from A to Z; the letter case does not matter."""
    NAME_REVERSED = "-name"
    SHORTEST = "length"
    """By seconds of audio; files of unknown length are the shortest."""
    LONGEST = "-length"
    STATUS = "status"
    """In progress, waiting, failed, cancelled, completed, skipped."""
    STATUS_REVERSED = "-status"


_KEYS = {
    "date": "job_id",
    "name": "lower(path)",
    "length": "coalesce(audio_seconds, container_seconds, 0)",
    "status": "instr('processing pending failed cancelled completed skipped', status)",
}


def list_jobs(
    connection: ReadConnection,
    filters: Mapping[str, object],
    *,
    limit: int,
    order: JobOrder = JobOrder.NEWEST,
    offset: int = 0,
) -> list[Row]:
    """Return rows of `job_status`.

    `filters`: `status`, `batch`, `inbox`, `preset`, `part` (of the path), `before` (a job id),
    `ids` (JSON), `transcribed` and `newest_version` (whether it is so); None is any value.
    """
    where, given = _build_condition(filters)
    direction = "DESC" if order.startswith("-") else "ASC"
    key = f"{_KEYS[order.lstrip('-')]} {direction}, job_id {direction}"
    # Only the page has all columns: those of a million jobs would be sorted with them.
    page = f"SELECT job_id FROM job_status WHERE {where} ORDER BY {key} LIMIT :limit OFFSET :offset"  # noqa: S608 - our own words
    query = f"SELECT * FROM job_status WHERE job_id IN ({page}) ORDER BY {key}"  # noqa: S608 - our own words
    return fetch_rows(connection, query, given | {"limit": limit, "offset": offset})


def count_matching_jobs(connection: ReadConnection, filters: Mapping[str, object]) -> int:
    """Return the number of jobs that match the filters of `list_jobs`."""
    where, given = _build_condition(filters)
    if given.keys() <= _COUNTED:
        column = given.get("status", "total")
        batch = "WHERE batch = :batch" if "batch" in given else ""
        query = f"SELECT coalesce(sum({column}), 0) FROM batch_progress {batch}"  # noqa: S608 - a member of Status
    else:
        query = f"SELECT count(*) FROM job_status WHERE {where}"  # noqa: S608 - our own words
    return int(str(fetch_value(connection, query, given)))


def list_job_ids(connection: ReadConnection, filters: Mapping[str, object]) -> list[int]:
    """Return the jobs that match the filters of `list_jobs`, oldest first."""
    where, given = _build_condition(filters)
    query = f"SELECT job_id FROM job_status WHERE {where} ORDER BY job_id"  # noqa: S608 - our own words
    return [int(str(row["job_id"])) for row in fetch_rows(connection, query, given)]


def _build_condition(filters: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    given = {name: value for name, value in filters.items() if value is not None}
    return " AND ".join(_CONDITIONS[name] for name in given) or "TRUE", given


def list_batches(connection: ReadConnection, part: str, *, limit: int) -> list[Row]:
    """Return batches with `part` in their names, newest first."""
    return fetch_rows(connection, _BATCHES, {"part": part, "limit": limit})


def list_hours(connection: ReadConnection, hours: int) -> list[Row]:
    """Return the last hours in which jobs ended, oldest first."""
    return fetch_rows(connection, _HOURS, {"hours": hours})


def list_results(connection: ReadConnection) -> list[Row]:
    """Return all jobs with their texts."""
    return fetch_rows(connection, _RESULTS)


def load_inbox_notes(connection: ReadConnection) -> dict[str, str]:
    """Return how each inbox is watched, by name; "ok" if there is nothing to say."""
    rows = fetch_rows(connection, _INBOX_NOTES)
    return {str(row["inbox"]): str(row["note"] or "ok") for row in rows}


@dataclass(frozen=True, slots=True)
class Totals:
    audio_seconds: float  # transcribed
    incidents: Mapping[str, int]  # by kind


def load_totals(connection: ReadConnection) -> Totals:
    faults: list[dict[str, Any]] = fetch_rows(connection, _FAULTS)
    return Totals(
        audio_seconds=float(str(fetch_value(connection, _AUDIO))),
        incidents={row["kind"]: row["n"] for row in faults},
    )


@dataclass(frozen=True, slots=True)
class JobCount:
    number: int
    newest_at: str | None  # when the newest job was added


def count_jobs(connection: ReadConnection) -> JobCount:
    [row] = fetch_rows(connection, _COUNT)
    newest = row["last"]
    return JobCount(int(str(row["n"])), None if newest is None else str(newest))
