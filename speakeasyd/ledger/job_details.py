"""Queries for the details of one job."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speakeasyd.ledger.rows import ReadConnection, Row, fetch_rows, stream_rows

_JOB = "SELECT * FROM job_status WHERE job_id = :job"
_SOURCE = """
    SELECT inbox, path_raw, same.size, same.mtime_ns
    FROM jobs JOIN jobs AS same USING (inbox, path_raw, sha256)
    WHERE jobs.id = :job
"""
_SAME_BYTES = """
    SELECT path_raw, sha256, options, status NOT IN ('failed', 'cancelled') AS has_result FROM jobs
    WHERE inbox = :inbox AND sha256 IN (SELECT value FROM json_each(:hashes))
"""
_SPEAKERS = """
    SELECT speaker, name, seconds, share, words, similarity, suggestion FROM speakers
    WHERE job_id = :job ORDER BY speaker
"""
_TEXT = """
    SELECT text FROM segments WHERE job_id = :job ORDER BY track, start_seconds, chunk, position
"""
_DETAILS = {
    "attempts_made": """
        SELECT started_at, ended_at, outcome, model, device, error_code, error FROM attempts
        WHERE job_id = :job ORDER BY id
    """,
    "artifacts": """
        SELECT format, outbox, path, bytes, sha256, written_at FROM artifacts
        WHERE job_id = :job ORDER BY id
    """,
    "incidents": """
        SELECT at, kind, device, error, action, cost_seconds, action_kind, summary, detail FROM incidents
        WHERE job_id = :job ORDER BY at
    """,
}


def find_job_row(connection: ReadConnection, job: int) -> Row | None:
    """Return the row of a job in the view `job_status`; None if there is no such job."""
    return next(iter(fetch_rows(connection, _JOB, {"job": job})), None)


def load_details(connection: ReadConnection, job: int) -> dict[str, list[Row]]:
    """Return the attempts, artifacts and incidents of a job."""
    return {name: fetch_rows(connection, sql, {"job": job}) for name, sql in _DETAILS.items()}


def load_job(connection: ReadConnection, job: int) -> Row | None:
    """Return the row of a job with its details; None if there is no such job."""
    row = find_job_row(connection, job)
    return row and row | load_details(connection, job)


def load_text(connection: ReadConnection, job: int) -> str:
    """Return the text of a job, as far as it is transcribed."""
    return "".join(str(row["text"]) for row in stream_rows(connection, _TEXT, {"job": job})).strip()


def list_job_speakers(connection: ReadConnection, job: int) -> list[Row]:
    """Return the rows of a job in the view `speakers`, without its number, by number of speaker."""
    return fetch_rows(connection, _SPEAKERS, {"job": job})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The file of a job: where it was, and how to tell it from other files of that name."""

    inbox: str
    path: bytes  # relative to the inbox, as the system has it
    # size and mtime_ns, once for each time that it was seen with these bytes
    versions: frozenset[tuple[int, int]]


def find_source(connection: ReadConnection, job: int) -> SourceFile | None:
    """Return the file of a job; None for an unknown job."""
    rows: list[dict[str, Any]] = fetch_rows(connection, _SOURCE, {"job": job})
    versions = frozenset((row["size"], row["mtime_ns"]) for row in rows)
    return SourceFile(rows[0]["inbox"], rows[0]["path_raw"], versions) if rows else None


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that has a job."""

    path: str  # relative to the inbox, as the system has it
    sha256: str
    options: dict[str, Any]
    has_result: bool  # its job has not failed and was not cancelled


def files_with_bytes(
    connection: ReadConnection, inbox: str, hashes: Sequence[str]
) -> list[KnownFile]:
    """Return the files of an inbox with one of these SHA-256 hashes."""
    rows: list[dict[str, Any]] = fetch_rows(
        connection, _SAME_BYTES, {"inbox": inbox, "hashes": json.dumps(hashes)}
    )
    return [
        KnownFile(
            os.fsdecode(row["path_raw"]),
            row["sha256"],
            json.loads(row["options"]),
            bool(row["has_result"]),
        )
        for row in rows
    ]
