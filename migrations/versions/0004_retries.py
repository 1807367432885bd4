"""A retry of a completed job keeps the finished transcript; statistics of a segment may be unknown.

Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMN = "ALTER TABLE jobs ADD COLUMN retry_error TEXT"

RETRIES = """
CREATE TABLE retries (
    job_id INTEGER NOT NULL,
    result TEXT NOT NULL,
    CONSTRAINT pk_retries PRIMARY KEY (job_id),
    CONSTRAINT fk_retries_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
)
"""

RETRY_CHUNKS = """
CREATE TABLE retry_chunks (
    job_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    gap BOOLEAN DEFAULT 0 NOT NULL,
    text TEXT NOT NULL,
    content TEXT NOT NULL,
    CONSTRAINT pk_retry_chunks PRIMARY KEY (job_id, number),
    CONSTRAINT fk_retry_chunks_job_id FOREIGN KEY(job_id) REFERENCES retries (job_id) ON DELETE CASCADE
)
"""

# The same table as `domain.job.TRANSITIONS`. From `pending` to `completed`: a cancelled retry.
TRANSITIONS = """
CREATE TRIGGER jobs_transition BEFORE UPDATE OF status ON jobs
WHEN OLD.status <> NEW.status AND NOT CASE OLD.status
    WHEN 'pending' THEN NEW.status IN ('processing', 'cancelled', 'failed', 'completed')
    WHEN 'processing' THEN NEW.status IN ('pending', 'completed', 'failed', 'cancelled')
    ELSE NEW.status = 'pending'
END
BEGIN
    SELECT RAISE(ABORT, 'a job cannot change from its status to that one');
END
"""

STATISTICS = ("avg_logprob", "compression_ratio", "no_speech_prob")


def upgrade() -> None:
    op.execute(COLUMN)
    op.execute(RETRIES)
    op.execute(RETRY_CHUNKS)
    op.execute("DROP TRIGGER jobs_transition")
    op.execute(TRANSITIONS)
    _allow_unknown_statistics()


def _allow_unknown_statistics() -> None:
    """Remove NOT NULL from columns in the way of SQLite's ALTER TABLE docs: no row is rewritten."""
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    for name in STATISTICS:
        connection.exec_driver_sql(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) "
            "WHERE type = 'table' AND name = 'segments'",
            (f"{name} REAL NOT NULL", f"{name} REAL"),
        )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
