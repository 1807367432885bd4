"""The first ledger."""

import sqlite3

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE batches (
    id INTEGER PRIMARY KEY,
    inbox TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,
    processing INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    audio_seconds REAL NOT NULL DEFAULT 0,
    UNIQUE (inbox, name)
);

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    batch_id INTEGER NOT NULL REFERENCES batches (id),
    inbox TEXT NOT NULL,
    path TEXT NOT NULL,
    path_raw BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'skipped')),
    priority INTEGER NOT NULL DEFAULT 0,
    preset TEXT,
    options TEXT NOT NULL,
    model_wanted TEXT NOT NULL,
    recipe TEXT NOT NULL,
    duplicates TEXT NOT NULL DEFAULT 'reuse',
    duplicate_of INTEGER REFERENCES jobs (id) ON DELETE SET NULL,
    claim_token TEXT,
    boot_id TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    available_at TEXT NOT NULL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    transcribed_at TEXT,
    finished_at TEXT,
    audio_seconds REAL,
    progress REAL NOT NULL DEFAULT 0,
    language TEXT,
    language_probability REAL,
    model TEXT,
    device TEXT,
    error_code TEXT,
    error TEXT,
    warning TEXT,
    CHECK ((claim_token IS NOT NULL) = (status = 'processing')),
    CHECK ((finished_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled', 'skipped')))
);
CREATE INDEX jobs_by_path ON jobs (inbox, path_raw);
CREATE INDEX jobs_to_claim ON jobs (priority DESC, id) WHERE status = 'pending';
CREATE INDEX jobs_in_work ON jobs (sha256) WHERE status = 'processing';
CREATE INDEX jobs_to_reuse ON jobs (sha256, recipe) WHERE status = 'completed';
CREATE INDEX jobs_by_status ON jobs (status, id);
CREATE INDEX jobs_by_batch ON jobs (batch_id, status);
CREATE INDEX jobs_by_end ON jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TRIGGER jobs_added AFTER INSERT ON jobs BEGIN
    UPDATE batches SET
        pending = pending + (NEW.status = 'pending'),
        failed = failed + (NEW.status = 'failed'),
        skipped = skipped + (NEW.status = 'skipped')
    WHERE id = NEW.batch_id;
END;
CREATE TRIGGER jobs_moved AFTER UPDATE OF status ON jobs WHEN OLD.status <> NEW.status BEGIN
    UPDATE batches SET
        pending = pending + (NEW.status = 'pending') - (OLD.status = 'pending'),
        processing = processing + (NEW.status = 'processing') - (OLD.status = 'processing'),
        completed = completed + (NEW.status = 'completed') - (OLD.status = 'completed'),
        failed = failed + (NEW.status = 'failed') - (OLD.status = 'failed'),
        cancelled = cancelled + (NEW.status = 'cancelled') - (OLD.status = 'cancelled'),
        skipped = skipped + (NEW.status = 'skipped') - (OLD.status = 'skipped')
    WHERE id = NEW.batch_id;
END;
CREATE TRIGGER jobs_measured AFTER UPDATE OF audio_seconds ON jobs
WHEN coalesce(OLD.audio_seconds, 0) <> coalesce(NEW.audio_seconds, 0) BEGIN
    UPDATE batches SET audio_seconds = audio_seconds + coalesce(NEW.audio_seconds, 0) - coalesce(OLD.audio_seconds, 0)
    WHERE id = NEW.batch_id;
END;
CREATE TRIGGER jobs_removed AFTER DELETE ON jobs BEGIN
    UPDATE batches SET
        pending = pending - (OLD.status = 'pending'),
        processing = processing - (OLD.status = 'processing'),
        completed = completed - (OLD.status = 'completed'),
        failed = failed - (OLD.status = 'failed'),
        cancelled = cancelled - (OLD.status = 'cancelled'),
        skipped = skipped - (OLD.status = 'skipped'),
        audio_seconds = audio_seconds - coalesce(OLD.audio_seconds, 0)
    WHERE id = OLD.batch_id;
END;

CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    claim_token TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    model TEXT,
    device TEXT,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    outcome TEXT
        CHECK (outcome IN ('completed', 'released', 'crashed', 'failed', 'cancelled', 'interrupted')),
    error_code TEXT,
    error TEXT
);
CREATE INDEX attempts_by_job ON attempts (job_id);
CREATE UNIQUE INDEX attempts_by_claim ON attempts (claim_token);
CREATE INDEX attempts_open ON attempts (boot_id) WHERE finished_at IS NULL;

CREATE TABLE chunks (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    channel INTEGER,
    start_s REAL NOT NULL,
    end_s REAL NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'gap', 'suspect')),
    strikes INTEGER NOT NULL DEFAULT 0,
    redone INTEGER NOT NULL DEFAULT 0,
    compute_s REAL NOT NULL DEFAULT 0,
    committed_at TEXT NOT NULL,
    PRIMARY KEY (job_id, idx)
) WITHOUT ROWID;

CREATE TABLE segments (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    chunk_idx INTEGER NOT NULL,
    channel INTEGER,
    start_s REAL NOT NULL,
    end_s REAL NOT NULL,
    text TEXT NOT NULL,
    words TEXT,
    avg_logprob REAL NOT NULL,
    compression_ratio REAL NOT NULL,
    no_speech_prob REAL NOT NULL,
    FOREIGN KEY (job_id, chunk_idx) REFERENCES chunks (job_id, idx) ON DELETE CASCADE
);
CREATE INDEX segments_in_order ON segments (job_id, start_s, id);
CREATE INDEX segments_by_chunk ON segments (job_id, chunk_idx);

CREATE VIRTUAL TABLE segments_fts USING fts5 (text, content = 'segments', content_rowid = 'id');
CREATE TRIGGER segments_added AFTER INSERT ON segments BEGIN
    INSERT INTO segments_fts (rowid, text) VALUES (NEW.id, NEW.text);
END;
CREATE TRIGGER segments_removed AFTER DELETE ON segments BEGIN
    INSERT INTO segments_fts (segments_fts, rowid, text) VALUES ('delete', OLD.id, OLD.text);
END;

CREATE TABLE artifacts (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    format TEXT NOT NULL,
    outbox TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    written_at TEXT,
    UNIQUE (outbox, path)
);
CREATE INDEX artifacts_by_job ON artifacts (job_id);

CREATE TABLE incident_records (
    id INTEGER PRIMARY KEY,
    opened_at TEXT NOT NULL,
    resolved_at TEXT,
    kind TEXT NOT NULL,
    phase TEXT,
    device TEXT,
    worker TEXT,
    job_id INTEGER,
    chunk_idx INTEGER,
    error TEXT NOT NULL,
    action TEXT NOT NULL,
    cost_seconds REAL
);

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    job_id INTEGER,
    data TEXT
);
CREATE INDEX events_by_job ON events (job_id);
CREATE INDEX events_by_time ON events (at);

CREATE TABLE arrivals (
    inbox TEXT NOT NULL,
    path TEXT NOT NULL,
    path_raw BLOB NOT NULL,
    size INTEGER NOT NULL,
    since TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (inbox, path_raw)
) WITHOUT ROWID;

CREATE TABLE state (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID;
"""


def upgrade() -> None:
    for statement in statements(TABLES):
        op.execute(statement)


def statements(script: str) -> list[str]:
    """The statements of a script one by one; `sqlite3.complete_statement` knows that a trigger holds semicolons."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return found
