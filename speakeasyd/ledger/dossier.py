"""Everything about one job."""

from pathlib import Path

from speakeasyd.ledger.asking import ask
from speakeasyd.ledger.reading import Row

_JOB = "SELECT * FROM job_status WHERE job_id = :job"
_DETAILS = {
    "attempts_made": """
        SELECT started_at, ended_at, outcome, model, device, error_code, error FROM attempts
        WHERE job_id = :job ORDER BY id
    """,
    "artifacts": """
        SELECT format, outbox, path, bytes, sha256, written_at FROM artifacts WHERE job_id = :job ORDER BY id
    """,
    "incidents": """
        SELECT at, kind, device, error, action, cost_seconds FROM incidents WHERE job_id = :job ORDER BY at
    """,
}


def job_row(state: Path, job: int) -> Row | None:
    """Its row of the view `job_status`; None for an unknown job. Raises LedgerError where there is no ledger."""
    return next(iter(ask(state, _JOB, {"job": job})), None)


def details(state: Path, job: int) -> dict[str, list[Row]]:
    """Its attempts, artifacts and incidents."""
    return {name: ask(state, query, {"job": job}) for name, query in _DETAILS.items()}
