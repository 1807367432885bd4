"""The language of each segment and chunk, where a file has several.

Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = (
    "ALTER TABLE chunks ADD COLUMN language TEXT",
    "ALTER TABLE segments ADD COLUMN language TEXT",
)


def upgrade() -> None:
    for statement in COLUMNS:
        op.execute(statement)
