"""The public views: an API in SQL. They keep their columns across versions; `docs/sql.md` explains each."""

VIEWS = {
    "job_status": """
        SELECT jobs.id AS job_id, batches.name AS batch, jobs.inbox, jobs.path, jobs.status, round(jobs.progress, 4) AS progress,
            jobs.attempts, jobs.audio_seconds, jobs.language, jobs.model, jobs.device, jobs.error_code, jobs.error,
            jobs.created_at, jobs.started_at, jobs.finished_at, jobs.available_at, jobs.preset, jobs.warning,
            jobs.duplicate_of, jobs.crashes, jobs.priority, jobs.size, jobs.sha256, jobs.language_probability
        FROM jobs JOIN batches ON batches.id = jobs.batch_id
    """,
    "batch_progress": """
        SELECT batches.name AS batch,
            pending + processing + completed + failed + cancelled + skipped AS total,
            pending, processing, completed, failed, cancelled, skipped, round(audio_seconds, 3) AS audio_seconds,
            round((completed + failed + cancelled + skipped + coalesce((SELECT sum(progress) FROM jobs
                WHERE jobs.batch_id = batches.id AND jobs.status = 'processing'), 0))
                / max(1.0, pending + processing + completed + failed + cancelled + skipped), 4) AS progress,
            batches.inbox, batches.created_at
        FROM batches
    """,
    "failures": """
        SELECT jobs.id AS job_id, jobs.path, jobs.error_code, jobs.error, jobs.attempts, jobs.finished_at, batches.name AS batch,
            jobs.inbox
        FROM jobs JOIN batches ON batches.id = jobs.batch_id WHERE jobs.status = 'failed'
    """,
    "incidents": """
        SELECT r.id AS incident_id, r.opened_at, r.kind, r.phase, r.device, r.worker, r.job_id, jobs.path, r.chunk_idx AS chunk,
            r.error, r.action, r.resolved_at, r.cost_seconds
        FROM incident_records r LEFT JOIN jobs ON jobs.id = r.job_id
    """,
    "throughput_hourly": """
        SELECT strftime('%Y-%m-%dT%H:00:00Z', finished_at) AS hour, count(*) AS jobs,
            sum(status = 'completed') AS completed, sum(status = 'failed') AS failed,
            round(coalesce(sum(CASE WHEN status = 'completed' THEN audio_seconds END), 0), 3) AS audio_seconds
        FROM jobs WHERE finished_at IS NOT NULL AND status IN ('completed', 'failed') GROUP BY hour
    """,
    "transcript_text": """
        SELECT jobs.id AS job_id, jobs.path, jobs.language,
            trim(coalesce((SELECT group_concat(text, '') FROM
                (SELECT text FROM segments WHERE segments.job_id = jobs.id ORDER BY start_s, id)), '')) AS text
        FROM jobs WHERE jobs.status = 'completed' OR jobs.progress > 0
    """,
}


def statements() -> list[str]:
    """SQL that makes every view anew."""
    return [
        statement
        for name, select in VIEWS.items()
        for statement in (f"DROP VIEW IF EXISTS {name}", f"CREATE VIEW {name} AS {select.strip()}")
    ]
