"""Idempotency keys of uploads, and the options of uploads that are under way.

Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

UPLOAD_KEYS = """
CREATE TABLE upload_keys (
    "key" TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    inbox TEXT NOT NULL,
    changes TEXT NOT NULL,
    hashes TEXT NOT NULL,
    answer TEXT,
    expires_at TEXT NOT NULL,
    CONSTRAINT pk_upload_keys PRIMARY KEY ("key")
)
"""

INDEX = "CREATE INDEX ix_upload_keys_expires_at ON upload_keys (expires_at)"


def upgrade() -> None:
    for statement in (UPLOAD_KEYS, INDEX):
        op.execute(statement)
