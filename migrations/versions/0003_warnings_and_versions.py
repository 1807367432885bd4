"""Kinds of warnings; when a truncated file is final; which job replaced an earlier version.

Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = (
    "ALTER TABLE jobs ADD COLUMN warning_kinds TEXT",
    "ALTER TABLE jobs ADD COLUMN final_at TEXT",
    "ALTER TABLE jobs ADD COLUMN superseded_by INTEGER",
    "ALTER TABLE artifacts ADD COLUMN replaces_sha256 TEXT",
)
KINDS_BY_TEXT = {
    "%cut: the file ends early%": "cut",
    "%cut or damaged: %": "cut",
    "%damaged: %": "damaged",
    "%not transcribed: %": "left_out",
    "%": "other",
}
"""The wording of warnings before they had kinds, as LIKE patterns; the first match counts."""


def upgrade() -> None:
    for statement in COLUMNS:
        op.execute(statement)
    for pattern, kind in KINDS_BY_TEXT.items():
        fits = f"warning LIKE '{pattern}' AND warning_kinds IS NULL"
        op.execute(f"UPDATE jobs SET warning_kinds = json_array('{kind}') WHERE {fits}")  # noqa: S608 - constants
