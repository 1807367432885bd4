"""Queries for the details of one job."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasyd.ledger.queries import query_ledger
from speakeasyd.ledger.readonly import Row

_JOB = "SELECT * FROM job_status WHERE job_id = :job"
_SOURCE = """
    SELECT inbox, path_raw, same.size, same.mtime_ns
    FROM jobs JOIN jobs AS same USING (inbox, path_raw, sha256)
    WHERE jobs.id = :job
"""
_SAME_BYTES = """
    SELECT path_raw, sha256, options FROM jobs
    WHERE inbox = :inbox AND status NOT IN ('failed', 'cancelled') AND sha256 IN
"""
HASHES = 500  # hashes per query
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


def find_job_row(state: Path, job: int) -> Row | None:
    """Return the row of a job in the view `job_status`; None if there is no such job.

    Raises LedgerError if there is no ledger.
    """
    return next(iter(query_ledger(state, _JOB, {"job": job})), None)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The file of a job: where it was, and how to tell it from other files of that name."""

    inbox: str
    path: bytes  # relative to the inbox, as the system has it
    # size and mtime_ns, once for each time that it was seen with these bytes
    versions: frozenset[tuple[int, int]]


def find_source(state: Path, job: int) -> SourceFile | None:
    """Return the file of a job; None for an unknown job. Raises LedgerError without a ledger."""
    rows: list[dict[str, Any]] = query_ledger(state, _SOURCE, {"job": job})
    versions = frozenset((row["size"], row["mtime_ns"]) for row in rows)
    return SourceFile(rows[0]["inbox"], rows[0]["path_raw"], versions) if rows else None


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that has a job, or had one that was not failed or cancelled."""

    path: str  # relative to the inbox, as the system has it
    sha256: str
    options: dict[str, Any]


def files_with_bytes(state: Path, inbox: str, hashes: Sequence[str]) -> list[KnownFile]:
    """Return the files of an inbox with one of these SHA-256 hashes.

    Raises LedgerError if there is no ledger.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(hashes), HASHES):
        part = {
            f"h{number}": sha256 for number, sha256 in enumerate(hashes[start : start + HASHES])
        }
        names = ", ".join(f":{name}" for name in part)
        rows += query_ledger(state, f"{_SAME_BYTES} ({names})", part | {"inbox": inbox})
    return [
        KnownFile(os.fsdecode(row["path_raw"]), row["sha256"], json.loads(row["options"]))
        for row in rows
    ]


def load_details(state: Path, job: int) -> dict[str, list[Row]]:
    """Return the attempts, artifacts and incidents of a job. Raises LedgerError."""
    return {name: query_ledger(state, query, {"job": job}) for name, query in _DETAILS.items()}
