"""The tables of the ledger, as of the newest migration; a test compares the two.

Times are UTC ISO 8601 text with milliseconds and `Z`. Durations and positions are in seconds. Users
should query the views (`views.py`): their columns are stable; the tables may change with any
version.
"""

from enum import StrEnum

from sqlalchemy import (
    BLOB,
    REAL,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from speakeasyd.domain.job import AttemptOutcome, Status
from speakeasyd.domain.notifications import DeliveryStatus
from speakeasyd.ledger.text_columns import SanitizedText

NO_WAIT = ""
"""The `available_at` of a job that need not wait.

It sorts before every time, so setting the clock back delays no job.
"""

IN_JOB_STATUS = {"in_job_status": True}
"""Marks a column of `jobs` that the view `job_status` has after those that are listed there."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _build_set_check(column: str, allowed: type[StrEnum]) -> CheckConstraint:
    """Return the constraint that the column has one of these values, or none."""
    values = ", ".join(f"'{value}'" for value in allowed)
    return CheckConstraint(f"{column} IN ({values})", name=f"{column}_is_legal")


def _counter_column(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=text("0"))


batches = Table(
    "batches",
    metadata,
    Column("name", SanitizedText, primary_key=True),
    Column("created_at", SanitizedText, nullable=False),
    *map(
        _counter_column,
        ("total", "pending", "processing", "completed", "failed", "cancelled", "skipped"),
    ),
    _counter_column("audio_ms"),  # an integer: sums and differences stay exact
)
"""Triggers on `jobs` update the counts, so that a sum over a million jobs takes no time."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batch", SanitizedText, ForeignKey("batches.name"), nullable=False),
    Column("inbox", SanitizedText, nullable=False),
    # relative to the inbox, as os.fsencode returns it: names need not be valid text
    Column("path_raw", BLOB, nullable=False),
    Column("path", SanitizedText, nullable=False),  # the same for display
    Column("size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("inode", Integer, nullable=False),
    Column("sha256", SanitizedText, nullable=False),
    # jobs with equal keys have equal transcripts and may reuse them; null: no reuse
    Column("work_key", SanitizedText),
    Column("options", SanitizedText, nullable=False),  # JSON
    Column("requested_model", SanitizedText, nullable=False),
    Column("preset", SanitizedText),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    # see domain/queue_order.py: seconds since the epoch
    Column("queue_key", REAL, nullable=False, server_default=text("0")),
    Column("status", SanitizedText, nullable=False),
    Column("progress", REAL, nullable=False, server_default=text("0")),
    _counter_column("attempts"),
    _counter_column("crashes"),
    Column("transcribed", Boolean, nullable=False, server_default=text("0")),
    Column("container_seconds", REAL, info=IN_JOB_STATUS),
    Column("audio_seconds", REAL),
    Column("compute_seconds", REAL, nullable=False, server_default=text("0")),
    Column("language", SanitizedText),
    Column("language_probability", REAL),
    Column("model", SanitizedText),
    Column("device", SanitizedText),
    Column("error_code", SanitizedText),
    Column("error", SanitizedText),
    Column("warning", SanitizedText),
    Column("created_at", SanitizedText, nullable=False),
    Column("available_at", SanitizedText, nullable=False),
    Column("started_at", SanitizedText),
    Column("finished_at", SanitizedText),
    Column("claim_token", SanitizedText),
    Column("boot_id", SanitizedText),
    Column("duplicate_of", Integer, ForeignKey("jobs.id", ondelete="SET NULL")),
    Column("warning_kinds", SanitizedText),  # JSON: ["cut", ...], see WarningKind; null: no warning
    # until when a truncated file may still grow; null: not at all
    Column("final_at", SanitizedText),
    # job of a newer version of the file, once it has completed
    Column("superseded_by", Integer),
    Column("retry_error", SanitizedText),  # why the last retry of this completed job failed
    Column("tracks", SanitizedText),  # JSON: those transcribed apart; null: there is one transcript
    # JSON: `Speaker`s, by number; null: not asked for, or not found yet
    Column("speakers", SanitizedText),
    _build_set_check("status", Status),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled', 'skipped'))",
        name="finished_exactly_when_ended",
    ),
    CheckConstraint(
        "(claim_token IS NOT NULL) = (status = 'processing')",
        name="claimed_exactly_when_processing",
    ),
    CheckConstraint("progress BETWEEN 0 AND 1", name="progress_is_a_fraction"),
    Index("ix_jobs_identity", "inbox", "path_raw", "size", "mtime_ns", "inode"),
    Index("ix_jobs_sha256", "sha256"),
    Index(
        "ix_jobs_next",
        text("priority DESC"),
        "queue_key",
        "id",
        "available_at",
        sqlite_where=text("status = 'pending'"),
    ),
    Index(
        "ix_jobs_claim",
        "requested_model",
        text("priority DESC"),
        "queue_key",
        "id",
        "available_at",
        sqlite_where=text("status = 'pending'"),
    ),
    Index("ix_jobs_available", "available_at", sqlite_where=text("status = 'pending'")),
    Index("ix_jobs_twins", "work_key", sqlite_where=text("status = 'processing'")),
    Index("ix_jobs_status", "status"),
    Index("ix_jobs_status_finished", "status", "finished_at"),
    Index("ix_jobs_batch", "batch"),
    Index(
        "ix_jobs_underway",
        "batch",
        "progress",
        sqlite_where=text("finished_at IS NULL AND progress > 0"),
    ),
    Index("ix_jobs_finished", "finished_at", sqlite_where=text("finished_at IS NOT NULL")),
    Index("ix_jobs_duplicate_of", "duplicate_of", sqlite_where=text("duplicate_of IS NOT NULL")),
    sqlite_autoincrement=True,  # job ids are never reused
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("inbox", SanitizedText, primary_key=True),
    Column("path_raw", BLOB, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("inode", Integer, nullable=False),
    Column("sha256", SanitizedText, nullable=False),
    Column("status", SanitizedText, nullable=False),
)
"""Pruned jobs whose file may still be in its inbox, so that it is not transcribed again."""

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "job_id", Integer, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("claim_token", SanitizedText, nullable=False, unique=True),
    Column("boot_id", SanitizedText, nullable=False),
    Column("started_at", SanitizedText, nullable=False),
    Column("ended_at", SanitizedText),
    Column("outcome", SanitizedText),  # null while it runs
    Column("model", SanitizedText),
    Column("device", SanitizedText),
    Column("error_code", SanitizedText),
    Column("error", SanitizedText),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_exactly_with_outcome"),
    _build_set_check("outcome", AttemptOutcome),
)

chunks = Table(
    "chunks",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start_seconds", REAL, nullable=False),
    Column("end_seconds", REAL, nullable=False),
    Column("channel", Integer),
    _counter_column("redone"),
    Column("gap", Boolean, nullable=False, server_default=text("0")),
    Column("compute_seconds", REAL, nullable=False, server_default=text("0")),
    Column("committed_at", SanitizedText, nullable=False),
    Column("language", SanitizedText),  # at its end; null for a gap
    Column("track", Integer),  # audio track, from 1; null unless several are transcribed apart
    Column("speakers", SanitizedText),  # JSON: `ChunkSpeakers`; null: not asked for
    # JSON: the number of each local speaker, from 1; null until the speakers of the file are found
    Column("speaker_numbers", SanitizedText),
)

segments = Table(
    "segments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, nullable=False),
    Column("chunk", Integer, nullable=False),
    Column("position", Integer, nullable=False),  # within the chunk
    Column("start_seconds", REAL, nullable=False),
    Column("end_seconds", REAL, nullable=False),
    Column("text", SanitizedText, nullable=False),
    Column("channel", Integer),
    # null: the engine has no such statistic, or the model gave no finite number
    Column("avg_logprob", REAL),
    Column("compression_ratio", REAL),
    Column("no_speech_prob", REAL),
    Column("words", SanitizedText),  # JSON: [{"start", "end", "text", "probability"}, ...]
    Column("language", SanitizedText),  # null: that of the job
    Column("track", Integer),  # audio track, from 1; null unless several are transcribed apart
    # from 0, within its chunk: an index into `chunks.speaker_numbers`
    Column("local_speaker", Integer),
    Column("confidence", REAL),  # 0 to 1; null: transcribed by an earlier version
    ForeignKeyConstraint(
        ["job_id", "chunk"], ["chunks.job_id", "chunks.number"], ondelete="CASCADE"
    ),
    UniqueConstraint("job_id", "chunk", "position"),
)
"""Triggers keep the full-text index `segments_fts` up to date."""

retries = Table(
    "retries",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("result", SanitizedText, nullable=False),  # JSON: earlier columns of the job
)
"""Completed jobs that are being retried, until the new text is complete."""

retry_chunks = Table(
    "retry_chunks",
    metadata,
    Column("job_id", Integer, ForeignKey("retries.job_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start_seconds", REAL, nullable=False),
    Column("end_seconds", REAL, nullable=False),
    Column("gap", Boolean, nullable=False, server_default=text("0")),
    Column("text", SanitizedText, nullable=False),
    Column("content", SanitizedText, nullable=False),  # JSON: its rows of `chunks` and `segments`
)
"""The committed chunks of a retry."""

people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", SanitizedText, nullable=False, unique=True),
    Column("created_at", SanitizedText, nullable=False),
)
"""People whose voices are recognised."""

voice_samples = Table(
    "voice_samples",
    metadata,
    Column("id", Integer, primary_key=True),
    Column(
        "person_id",
        Integer,
        ForeignKey("people.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("source", SanitizedText, nullable=False),  # a file's name, or a job and its speaker
    Column("seconds", REAL, nullable=False),  # of speech
    Column("embedding", BLOB, nullable=False),  # 192 float16, little-endian
    Column("model", SanitizedText, nullable=False),
    Column("added_at", SanitizedText, nullable=False),
)
"""Embeddings of the voices of known people: biometric data, stored only when a user asks for it."""

strikes = Table(
    "strikes",
    metadata,
    Column("job_id", Integer, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("chunk", Integer, primary_key=True),
    Column("start_seconds", REAL, nullable=False),
    Column("end_seconds", REAL, nullable=False),
    Column("strikes", Integer, nullable=False),
)
"""Chunks that were on the device when a worker died."""

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Integer, primary_key=True),
    # null: the job was pruned, the file remains
    Column("job_id", Integer, ForeignKey("jobs.id", ondelete="SET NULL"), index=True),
    Column("format", SanitizedText, nullable=False),
    Column("outbox", SanitizedText, nullable=False),
    Column("path", SanitizedText, nullable=False),
    # equal for two paths that any filesystem may treat as one
    Column("path_key", SanitizedText, nullable=False),
    Column("sha256", SanitizedText, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("written_at", SanitizedText),  # null: reserved, perhaps not written
    # hashes of our own earlier file that may still exist under this name
    Column("replaces_sha256", SanitizedText),
    UniqueConstraint("outbox", "path_key"),
)

incident_records = Table(
    "incident_records",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", SanitizedText, nullable=False, index=True),
    Column("kind", SanitizedText, nullable=False),
    Column("phase", SanitizedText, nullable=False),
    Column("device", SanitizedText),
    Column("worker", SanitizedText),
    Column("job_id", Integer, ForeignKey("jobs.id", ondelete="SET NULL"), index=True),
    Column("chunk", Integer),
    Column("error", SanitizedText, nullable=False),  # the original message
    Column("action", SanitizedText, nullable=False),
    Column("resolved_at", SanitizedText),
    Column("cost_seconds", REAL),
    Column("summary", SanitizedText, nullable=False, server_default=""),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", SanitizedText, nullable=False, index=True),
    Column("kind", SanitizedText, nullable=False),
    Column("job_id", Integer, index=True),
    Column("data", SanitizedText, nullable=False),  # JSON
)

PENDING_DELIVERY = text(f"status = '{DeliveryStatus.PENDING}'")
"""A condition on `deliveries`, without a bound value: SQLite may use the index of pending ones."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", SanitizedText, nullable=False),
    Column("seq", Integer, nullable=False),  # of the event
    Column("kind", SanitizedText, nullable=False),
    Column("payload", SanitizedText, nullable=False),  # JSON, the same in every attempt
    Column("status", SanitizedText, nullable=False, server_default=DeliveryStatus.PENDING),
    _counter_column("attempts"),
    Column("created_at", SanitizedText, nullable=False, index=True),
    Column("available_at", SanitizedText, nullable=False),
    Column("ended_at", SanitizedText),
    Column("error", SanitizedText),  # of the last attempt
    _build_set_check("status", DeliveryStatus),
    CheckConstraint("(ended_at IS NULL) = (status = 'pending')", name="ended_exactly_when_over"),
    UniqueConstraint("target", "seq"),
    Index("ix_deliveries_due", "target", "available_at", sqlite_where=PENDING_DELIVERY),
)
"""Events on their way to delivery targets (outbox pattern)."""

arrivals = Table(
    "arrivals",
    metadata,
    Column("inbox", SanitizedText, primary_key=True),
    Column("path_raw", BLOB, primary_key=True),
    Column("path", SanitizedText, nullable=False),
    Column("size", Integer, nullable=False),
    Column("since", SanitizedText, nullable=False),
    Column("reason", SanitizedText, nullable=False),
)

upload_keys = Table(
    "upload_keys",
    metadata,
    Column("key", SanitizedText, primary_key=True),
    Column("fingerprint", SanitizedText, nullable=False),  # hash of the request
    Column("inbox", SanitizedText, nullable=False),
    Column("changes", SanitizedText, nullable=False),  # JSON: options as in a sidecar
    Column("hashes", SanitizedText, nullable=False),  # JSON: SHA-256 of each file
    Column("answer", SanitizedText),  # JSON; NULL until the jobs are added
    Column("expires_at", SanitizedText, nullable=False, index=True),
)
"""Uploads: those under way, and the answers to those that are done (idempotency keys)."""

state = Table(
    "state",
    metadata,
    Column("key", SanitizedText, primary_key=True),  # a `StateKey`
    Column("value", SanitizedText, nullable=False),  # JSON
    Column("updated_at", SanitizedText, nullable=False),
)

inbox_states = Table(
    "inbox_states",
    metadata,
    Column("inbox", SanitizedText, primary_key=True),
    Column("value", SanitizedText, nullable=False),  # JSON
    Column("updated_at", SanitizedText, nullable=False),
)
"""How the daemon watches each inbox."""
