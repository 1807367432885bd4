"""The key of each job in the order of the queue.

Jobs of before keep their order: by the time when they were added.

Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE jobs ADD COLUMN queue_key REAL DEFAULT 0 NOT NULL",
    "UPDATE jobs SET queue_key = coalesce((julianday(created_at) - 2440587.5) * 86400, 0)",
    "DROP INDEX ix_jobs_next",
    "DROP INDEX ix_jobs_claim",
    """CREATE INDEX ix_jobs_next ON jobs (priority DESC, queue_key, id, available_at)
    WHERE status = 'pending'""",
    """CREATE INDEX ix_jobs_claim ON jobs (requested_model, priority DESC, queue_key, id, available_at)
    WHERE status = 'pending'""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
