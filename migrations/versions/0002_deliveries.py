"""Deliveries of events to targets (outbox pattern).

Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DELIVERIES = """
CREATE TABLE deliveries (
    id INTEGER NOT NULL,
    target TEXT NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    status TEXT DEFAULT 'pending' NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    created_at TEXT NOT NULL,
    available_at TEXT NOT NULL,
    ended_at TEXT,
    error TEXT,
    CONSTRAINT pk_deliveries PRIMARY KEY (id),
    CONSTRAINT ck_deliveries_status_is_legal CHECK (status IN ('pending', 'delivered', 'failed')),
    CONSTRAINT ck_deliveries_ended_exactly_when_over CHECK ((ended_at IS NULL) = (status = 'pending')),
    CONSTRAINT uq_deliveries_target_seq UNIQUE (target, seq)
)
"""
DUE = "CREATE INDEX ix_deliveries_due ON deliveries (target, available_at) WHERE status = 'pending'"
CREATED = "CREATE INDEX ix_deliveries_created_at ON deliveries (created_at)"


def upgrade() -> None:
    for statement in (DELIVERIES, DUE, CREATED):
        op.execute(statement)
