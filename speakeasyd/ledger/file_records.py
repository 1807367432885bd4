"""Queries for what is recorded about a file. Quick to import: no SQLAlchemy here."""

from dataclasses import dataclass

from speakeasyd.ledger.rows import ReadConnection, Row, fetch_rows

_JOBS = """
    SELECT job_status.*, outcome AS last_outcome FROM job_status
    JOIN jobs ON jobs.id = job_status.job_id
    LEFT JOIN attempts ON attempts.id = (SELECT max(id) FROM attempts WHERE attempts.job_id = jobs.id)
    WHERE jobs.inbox = :inbox AND path_raw = :path ORDER BY job_status.job_id
"""
_ARRIVALS = """
    SELECT since, size, reason FROM arrivals WHERE inbox = :inbox AND path_raw = :path
"""
_UNREADABLE = """
    SELECT place.value AS place FROM inbox_states, json_each(inbox_states.value, '$.unreadable') AS place
    WHERE inbox = :inbox
"""
_WATCHED = """
    SELECT inbox AS name, json_extract(value, '$.path') AS path FROM inbox_states
"""
_SOURCE = """
    SELECT job_status.inbox, jobs.path_raw FROM artifacts JOIN jobs ON jobs.id = artifacts.job_id
    JOIN job_status USING (job_id) WHERE outbox || '/' || artifacts.path = :file
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is recorded about a file of an inbox."""

    jobs: list[Row]  # rows of `job_status` and `last_outcome`, oldest first
    arrivals: list[Row]  # `since`, `size` and `reason`, while it is not taken yet
    unreadable: list[str]  # folders of the inbox that the daemon may not read


def load_file_record(connection: ReadConnection, inbox: str, path: bytes) -> FileRecord:
    file = {"inbox": inbox, "path": path}
    places = fetch_rows(connection, _UNREADABLE, {"inbox": inbox})
    return FileRecord(
        jobs=fetch_rows(connection, _JOBS, file),
        arrivals=fetch_rows(connection, _ARRIVALS, file),
        unreadable=[str(row["place"]) for row in places],
    )


def list_watched_inboxes(connection: ReadConnection) -> dict[str, str]:
    """Return the path of each inbox that the daemon watched last, by name."""
    return {str(row["name"]): str(row["path"]) for row in fetch_rows(connection, _WATCHED)}


def find_artifact_source(connection: ReadConnection, file: str) -> tuple[str, bytes] | None:
    """Return inbox and path of the file whose transcript this is; None if it is none."""
    for row in fetch_rows(connection, _SOURCE, {"file": file}):
        path = row["path_raw"]
        return str(row["inbox"]), path if isinstance(path, bytes) else str(path).encode()
    return None
