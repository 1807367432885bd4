"""The audio track of each segment and chunk, where a file has several that are transcribed apart.

Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = (
    "ALTER TABLE jobs ADD COLUMN tracks TEXT",
    "ALTER TABLE chunks ADD COLUMN track INTEGER",
    "ALTER TABLE segments ADD COLUMN track INTEGER",
)


def upgrade() -> None:
    for statement in COLUMNS:
        op.execute(statement)
