"""What a person may change: ended jobs go round again, others stop."""

from collections.abc import Sequence

from speakeasyd.domain.job import TERMINAL
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.writer import Transaction

RETRY = """
UPDATE jobs SET status = 'pending', finished_at = NULL, transcribed_at = NULL, started_at = NULL, available_at = :now,
    attempts = 0, crashes = 0, progress = 0, error_code = NULL, error = NULL, warning = NULL, language = NULL,
    language_probability = NULL, duplicate_of = NULL, duplicates = 'transcribe'
WHERE id = :id AND status IN (SELECT value FROM json_each(:ended)) RETURNING id
"""
CANCEL = """
UPDATE jobs SET status = 'cancelled', claim_token = NULL, finished_at = :now, error_code = :code, error = :error
WHERE id = :id AND status IN ('pending', 'processing') RETURNING id
"""


async def retry(tx: Transaction, ids: Sequence[int]) -> list[int]:
    """Ended jobs start over, their chunks dropped. A skipped duplicate is transcribed for itself this time."""
    ended = '["' + '", "'.join(sorted(TERMINAL)) + '"]'
    changed = []
    for job_id in ids:
        if (await tx.execute(RETRY, {"id": job_id, "now": tx.now, "ended": ended})).first():
            await tx.execute("DELETE FROM chunks WHERE job_id = :id", {"id": job_id})
            tx.tell("job.retried", job_id)
            changed.append(job_id)
    return changed


async def cancel(tx: Transaction, ids: Sequence[int]) -> list[int]:
    changed = []
    for job_id in ids:
        values = {"id": job_id, "now": tx.now, "code": ErrorCode.CANCELLED, "error": "cancelled by a person"}
        if (await tx.execute(CANCEL, values)).first():
            await tx.execute(
                "UPDATE attempts SET finished_at = :now, outcome = 'cancelled' WHERE job_id = :id AND finished_at IS NULL",
                values,
            )
            tx.tell("job.cancelled", job_id, error_code=ErrorCode.CANCELLED)
            changed.append(job_id)
    return changed
