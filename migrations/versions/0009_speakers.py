"""The speakers of chunks, segments and jobs; known people and samples of their voices.

Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = (
    "ALTER TABLE jobs ADD COLUMN speakers TEXT",
    "ALTER TABLE chunks ADD COLUMN speakers TEXT",
    "ALTER TABLE chunks ADD COLUMN speaker_numbers TEXT",
    "ALTER TABLE segments ADD COLUMN local_speaker INTEGER",
)

PEOPLE = """
CREATE TABLE people (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    CONSTRAINT pk_people PRIMARY KEY (id),
    CONSTRAINT uq_people_name UNIQUE (name)
)
"""

SAMPLES = """
CREATE TABLE voice_samples (
    id INTEGER NOT NULL,
    person_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    seconds REAL NOT NULL,
    embedding BLOB NOT NULL,
    model TEXT NOT NULL,
    added_at TEXT NOT NULL,
    CONSTRAINT pk_voice_samples PRIMARY KEY (id),
    CONSTRAINT fk_voice_samples_person_id FOREIGN KEY(person_id) REFERENCES people (id) ON DELETE CASCADE
)
"""

INDEX = "CREATE INDEX ix_voice_samples_person_id ON voice_samples (person_id)"


def upgrade() -> None:
    for statement in (*COLUMNS, PEOPLE, SAMPLES, INDEX):
        op.execute(statement)
