"""How each inbox is watched has a table of its own; its name is no longer part of a key.

Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE inbox_states (
    inbox TEXT NOT NULL,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_inbox_states PRIMARY KEY (inbox)
)
"""


def upgrade() -> None:
    op.execute(TABLE)
    op.execute("""
        INSERT INTO inbox_states (inbox, value, updated_at)
        SELECT substr(key, length('inbox ') + 1), value, updated_at FROM state
        WHERE key LIKE 'inbox %'
    """)
    op.execute("DELETE FROM state WHERE key LIKE 'inbox %'")
