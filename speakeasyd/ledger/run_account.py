"""Queries for the end of a run: whether work is left, and what became of each job."""

from dataclasses import dataclass

from speakeasyd.domain.event_kinds import JOB_ENDED
from speakeasyd.ledger.rows import ReadConnection, Row, fetch_rows, fetch_value

_UNFINISHED = "SELECT coalesce(sum(pending + processing), 0) FROM batch_progress"
_WAITING = "SELECT DISTINCT inbox FROM jobs WHERE status IN ('pending', 'processing')"
_END_KINDS = ", ".join(f"'{kind}'" for kind in JOB_ENDED)
_JUST_ENDED = f"""finished_at IS NOT NULL AND id IN (
    SELECT job_id FROM events WHERE seq > :began AND kind IN ({_END_KINDS})
)"""  # noqa: S608 - constants
_ENDED = f"SELECT status, count(*) AS n FROM jobs WHERE {_JUST_ENDED} GROUP BY status"  # noqa: S608 - constants
_FAILED = f"SELECT inbox, path, error FROM jobs WHERE status = 'failed' AND {_JUST_ENDED}"  # noqa: S608 - constants
_UNFINISHED_JOBS = "SELECT inbox, path, error FROM jobs WHERE status IN ('pending', 'processing')"


@dataclass(frozen=True, slots=True)
class RunAccount:
    ended: dict[str, int]  # jobs by status
    failed: list[Row]  # inbox, path and error of each job
    unfinished: list[Row]  # the same of the jobs that have not ended


def load_run_account(connection: ReadConnection, began: int) -> RunAccount:
    """Return what became of the jobs since the event with the number `began`."""
    ended = fetch_rows(connection, _ENDED, {"began": began})
    return RunAccount(
        ended={str(row["status"]): int(str(row["n"])) for row in ended},
        failed=fetch_rows(connection, _FAILED, {"began": began}),
        unfinished=fetch_rows(connection, _UNFINISHED_JOBS),
    )


def count_unfinished_jobs(connection: ReadConnection) -> int:
    return int(str(fetch_value(connection, _UNFINISHED)))


def find_unfinished_inboxes(connection: ReadConnection) -> set[str]:
    """Return the inboxes that have jobs that have not ended."""
    return {str(row["inbox"]) for row in fetch_rows(connection, _WAITING)}
