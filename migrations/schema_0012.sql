CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE batches (
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    total INTEGER DEFAULT 0 NOT NULL,
    pending INTEGER DEFAULT 0 NOT NULL,
    processing INTEGER DEFAULT 0 NOT NULL,
    completed INTEGER DEFAULT 0 NOT NULL,
    failed INTEGER DEFAULT 0 NOT NULL,
    cancelled INTEGER DEFAULT 0 NOT NULL,
    skipped INTEGER DEFAULT 0 NOT NULL,
    audio_ms INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT pk_batches PRIMARY KEY (name)
);

CREATE TABLE jobs (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    batch TEXT NOT NULL,
    inbox TEXT NOT NULL,
    path_raw BLOB NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    work_key TEXT,
    options TEXT NOT NULL,
    requested_model TEXT NOT NULL,
    preset TEXT,
    priority INTEGER DEFAULT 0 NOT NULL,
    status TEXT NOT NULL,
    progress REAL DEFAULT 0 NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    crashes INTEGER DEFAULT 0 NOT NULL,
    transcribed BOOLEAN DEFAULT 0 NOT NULL,
    container_seconds REAL,
    audio_seconds REAL,
    compute_seconds REAL DEFAULT 0 NOT NULL,
    language TEXT,
    language_probability REAL,
    model TEXT,
    device TEXT,
    error_code TEXT,
    error TEXT,
    warning TEXT,
    created_at TEXT NOT NULL,
    available_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    claim_token TEXT,
    boot_id TEXT,
    duplicate_of INTEGER, warning_kinds TEXT, final_at TEXT, superseded_by INTEGER, retry_error TEXT, tracks TEXT, queue_key REAL DEFAULT 0 NOT NULL, speakers TEXT,
    CONSTRAINT ck_jobs_status_is_legal CHECK (
        status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'skipped')
    ),
    CONSTRAINT ck_jobs_finished_exactly_when_ended CHECK (
        (finished_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled', 'skipped'))
    ),
    CONSTRAINT ck_jobs_claimed_exactly_when_processing CHECK ((claim_token IS NOT NULL) = (status = 'processing')),
    CONSTRAINT ck_jobs_progress_is_a_fraction CHECK (progress BETWEEN 0 AND 1),
    CONSTRAINT fk_jobs_batch FOREIGN KEY(batch) REFERENCES batches (name),
    CONSTRAINT fk_jobs_duplicate_of FOREIGN KEY(duplicate_of) REFERENCES jobs (id) ON DELETE SET NULL
);

CREATE TABLE tombstones (
    inbox TEXT NOT NULL,
    path_raw BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    status TEXT NOT NULL,
    CONSTRAINT pk_tombstones PRIMARY KEY (inbox, path_raw)
);

CREATE TABLE attempts (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    claim_token TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT,
    model TEXT,
    device TEXT,
    error_code TEXT,
    error TEXT,
    CONSTRAINT pk_attempts PRIMARY KEY (id),
    CONSTRAINT ck_attempts_ended_exactly_with_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT ck_attempts_outcome_is_legal CHECK (
        outcome IN ('completed', 'failed', 'cancelled', 'released', 'crashed', 'interrupted')
    ),
    CONSTRAINT fk_attempts_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE,
    CONSTRAINT uq_attempts_claim_token UNIQUE (claim_token)
);

CREATE TABLE chunks (
    job_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    channel INTEGER,
    redone INTEGER DEFAULT 0 NOT NULL,
    gap BOOLEAN DEFAULT 0 NOT NULL,
    compute_seconds REAL DEFAULT 0 NOT NULL,
    committed_at TEXT NOT NULL, language TEXT, track INTEGER, speakers TEXT, speaker_numbers TEXT,
    CONSTRAINT pk_chunks PRIMARY KEY (job_id, number),
    CONSTRAINT fk_chunks_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);

CREATE TABLE segments (
    id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    position INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    text TEXT NOT NULL,
    channel INTEGER,
    avg_logprob REAL,
    compression_ratio REAL,
    no_speech_prob REAL,
    words TEXT, language TEXT, track INTEGER, local_speaker INTEGER, confidence REAL,
    CONSTRAINT pk_segments PRIMARY KEY (id),
    CONSTRAINT fk_segments_job_id_chunk FOREIGN KEY(job_id, chunk)
        REFERENCES chunks (job_id, number) ON DELETE CASCADE,
    CONSTRAINT uq_segments_job_id_chunk_position UNIQUE (job_id, chunk, position)
);

CREATE TABLE strikes (
    job_id INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    strikes INTEGER NOT NULL,
    CONSTRAINT pk_strikes PRIMARY KEY (job_id, chunk),
    CONSTRAINT fk_strikes_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);

CREATE TABLE artifacts (
    id INTEGER NOT NULL,
    job_id INTEGER,
    format TEXT NOT NULL,
    outbox TEXT NOT NULL,
    path TEXT NOT NULL,
    path_key TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    written_at TEXT, replaces_sha256 TEXT,
    CONSTRAINT pk_artifacts PRIMARY KEY (id),
    CONSTRAINT uq_artifacts_outbox_path_key UNIQUE (outbox, path_key),
    CONSTRAINT fk_artifacts_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE SET NULL
);

CREATE TABLE incident_records (
    id INTEGER NOT NULL,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    phase TEXT NOT NULL,
    device TEXT,
    worker TEXT,
    job_id INTEGER,
    chunk INTEGER,
    error TEXT NOT NULL,
    action TEXT NOT NULL,
    resolved_at TEXT,
    cost_seconds REAL, summary TEXT DEFAULT '' NOT NULL,
    CONSTRAINT pk_incident_records PRIMARY KEY (id),
    CONSTRAINT fk_incident_records_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE SET NULL
);

CREATE TABLE events (
    seq INTEGER NOT NULL,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    job_id INTEGER,
    data TEXT NOT NULL,
    CONSTRAINT pk_events PRIMARY KEY (seq)
);

CREATE TABLE arrivals (
    inbox TEXT NOT NULL,
    path_raw BLOB NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    since TEXT NOT NULL,
    reason TEXT NOT NULL,
    CONSTRAINT pk_arrivals PRIMARY KEY (inbox, path_raw)
);

CREATE TABLE state (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_state PRIMARY KEY ("key")
);

CREATE VIRTUAL TABLE segments_fts USING fts5(
    text, content = 'segments', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);

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
);

CREATE TABLE retries (
    job_id INTEGER NOT NULL,
    result TEXT NOT NULL,
    CONSTRAINT pk_retries PRIMARY KEY (job_id),
    CONSTRAINT fk_retries_job_id FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);

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
);

CREATE TABLE people (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    CONSTRAINT pk_people PRIMARY KEY (id),
    CONSTRAINT uq_people_name UNIQUE (name)
);

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
);

CREATE TABLE upload_keys (
    "key" TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    inbox TEXT NOT NULL,
    changes TEXT NOT NULL,
    hashes TEXT NOT NULL,
    answer TEXT,
    expires_at TEXT NOT NULL,
    CONSTRAINT pk_upload_keys PRIMARY KEY ("key")
);

CREATE TABLE inbox_states (
    inbox TEXT NOT NULL,
    value TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pk_inbox_states PRIMARY KEY (inbox)
);

CREATE INDEX ix_jobs_available ON jobs (available_at) WHERE status = 'pending';

CREATE INDEX ix_jobs_batch ON jobs (batch);

CREATE INDEX ix_jobs_duplicate_of ON jobs (duplicate_of) WHERE duplicate_of IS NOT NULL;

CREATE INDEX ix_jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE INDEX ix_jobs_identity ON jobs (inbox, path_raw, size, mtime_ns, inode);

CREATE INDEX ix_jobs_sha256 ON jobs (sha256);

CREATE INDEX ix_jobs_status ON jobs (status);

CREATE INDEX ix_jobs_status_finished ON jobs (status, finished_at);

CREATE INDEX ix_jobs_twins ON jobs (work_key) WHERE status = 'processing';

CREATE INDEX ix_jobs_underway ON jobs (batch, progress) WHERE finished_at IS NULL AND progress > 0;

CREATE INDEX ix_attempts_job_id ON attempts (job_id);

CREATE INDEX ix_artifacts_job_id ON artifacts (job_id);

CREATE INDEX ix_incident_records_at ON incident_records (at);

CREATE INDEX ix_incident_records_job_id ON incident_records (job_id);

CREATE INDEX ix_events_at ON events (at);

CREATE INDEX ix_events_job_id ON events (job_id);

CREATE TRIGGER jobs_count_in AFTER INSERT ON jobs
BEGIN
    UPDATE batches SET
        total = total + 1,
        pending = pending + (NEW.status = 'pending'),
        processing = processing + (NEW.status = 'processing'),
        completed = completed + (NEW.status = 'completed'),
        failed = failed + (NEW.status = 'failed'),
        cancelled = cancelled + (NEW.status = 'cancelled'),
        skipped = skipped + (NEW.status = 'skipped'),
        audio_ms = audio_ms + CAST(round(coalesce(NEW.audio_seconds, 0) * 1000) AS INTEGER)
    WHERE name = NEW.batch;
END;

CREATE TRIGGER jobs_count_over AFTER UPDATE OF status, audio_seconds ON jobs
WHEN OLD.status <> NEW.status OR OLD.audio_seconds IS NOT NEW.audio_seconds
BEGIN
    UPDATE batches SET
        pending = pending + (NEW.status = 'pending') - (OLD.status = 'pending'),
        processing = processing + (NEW.status = 'processing') - (OLD.status = 'processing'),
        completed = completed + (NEW.status = 'completed') - (OLD.status = 'completed'),
        failed = failed + (NEW.status = 'failed') - (OLD.status = 'failed'),
        cancelled = cancelled + (NEW.status = 'cancelled') - (OLD.status = 'cancelled'),
        skipped = skipped + (NEW.status = 'skipped') - (OLD.status = 'skipped'),
        audio_ms = audio_ms + CAST(round(coalesce(NEW.audio_seconds, 0) * 1000) AS INTEGER)
            - CAST(round(coalesce(OLD.audio_seconds, 0) * 1000) AS INTEGER)
    WHERE name = NEW.batch;
END;

CREATE TRIGGER jobs_count_out AFTER DELETE ON jobs
BEGIN
    UPDATE batches SET
        total = total - 1,
        pending = pending - (OLD.status = 'pending'),
        processing = processing - (OLD.status = 'processing'),
        completed = completed - (OLD.status = 'completed'),
        failed = failed - (OLD.status = 'failed'),
        cancelled = cancelled - (OLD.status = 'cancelled'),
        skipped = skipped - (OLD.status = 'skipped'),
        audio_ms = audio_ms - CAST(round(coalesce(OLD.audio_seconds, 0) * 1000) AS INTEGER)
    WHERE name = OLD.batch;
END;

CREATE TRIGGER segments_index AFTER INSERT ON segments
BEGIN
    INSERT INTO segments_fts(rowid, text) VALUES (NEW.id, NEW.text);
END;

CREATE TRIGGER segments_forget AFTER DELETE ON segments
BEGIN
    INSERT INTO segments_fts(segments_fts, rowid, text) VALUES ('delete', OLD.id, OLD.text);
END;

CREATE INDEX ix_deliveries_due ON deliveries (target, available_at) WHERE status = 'pending';

CREATE INDEX ix_deliveries_created_at ON deliveries (created_at);

CREATE TRIGGER jobs_transition BEFORE UPDATE OF status ON jobs
WHEN OLD.status <> NEW.status AND NOT CASE OLD.status
    WHEN 'pending' THEN NEW.status IN ('processing', 'cancelled', 'failed', 'completed')
    WHEN 'processing' THEN NEW.status IN ('pending', 'completed', 'failed', 'cancelled')
    ELSE NEW.status = 'pending'
END
BEGIN
    SELECT RAISE(ABORT, 'a job cannot change from its status to that one');
END;

CREATE INDEX ix_jobs_next ON jobs (priority DESC, queue_key, id, available_at)
    WHERE status = 'pending';

CREATE INDEX ix_jobs_claim ON jobs (requested_model, priority DESC, queue_key, id, available_at)
    WHERE status = 'pending';

CREATE INDEX ix_voice_samples_person_id ON voice_samples (person_id);

CREATE INDEX ix_upload_keys_expires_at ON upload_keys (expires_at);

INSERT INTO alembic_version VALUES ('0012');
