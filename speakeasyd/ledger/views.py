"""The public views, a stable interface for scripts and dashboards.

Columns are added at the end and never removed. The views are re-created when a version with other
definitions opens the ledger; they need no migration.
"""

from collections.abc import Mapping

from speakeasyd.domain.incidents import ACTION_WORDS
from speakeasyd.ledger.tables import IN_JOB_STATUS, jobs

_STORED_COLUMNS = ", ".join(column.name for column in jobs.c if column.info == IN_JOB_STATUS)
_ACTION_CASES = " ".join(f"WHEN '{value}' THEN '{text}'" for value, text in ACTION_WORDS.items())

VIEWS: Mapping[str, str] = {
    "job_status": f"""
        SELECT id AS job_id, batch, inbox, path, status, progress, attempts, audio_seconds, language, model, device,
               error_code, error, created_at, started_at, finished_at,
               iif(available_at = '', created_at, available_at) AS available_at, preset, warning,
               crashes, compute_seconds, language_probability, size AS bytes, sha256, priority, requested_model,
               duplicate_of, warning_kinds, superseded_by, retry_error,
               status = 'completed' OR EXISTS (SELECT 1 FROM retries WHERE job_id = jobs.id) AS has_transcript,
               {_STORED_COLUMNS}
        FROM jobs
    """,  # noqa: S608 - constants
    "batch_progress": """
        SELECT name AS batch, total, pending, processing, completed, failed, cancelled, skipped,
               audio_ms / 1000.0 AS audio_seconds,
               CASE WHEN total = 0 THEN 1.0 ELSE (
                   completed + failed + cancelled + skipped + (
                       SELECT coalesce(sum(progress), 0) FROM jobs
                       WHERE batch = batches.name AND finished_at IS NULL AND progress > 0
                   )
               ) * 1.0 / total END AS progress,
               created_at
        FROM batches
    """,
    "speakers": """
        SELECT jobs.id AS job_id, speaker.value ->> 'number' AS speaker,
               coalesce(nullif(speaker.value ->> 'name', ''), 'Speaker ' || (speaker.value ->> 'number')) AS name,
               speaker.value ->> 'seconds' AS seconds,
               (speaker.value ->> 'seconds') / nullif((
                   SELECT sum(value ->> 'seconds')
                   FROM json_each(iif(retries.job_id IS NULL, jobs.speakers, result ->> '$.speakers'))
               ), 0) AS share,
               speaker.value ->> 'words' AS words, jobs.path AS path, speaker.value ->> 'similarity' AS similarity,
               nullif(speaker.value ->> 'suggestion', '') AS suggestion
        FROM jobs LEFT JOIN retries ON retries.job_id = jobs.id
        JOIN json_each(iif(retries.job_id IS NULL, jobs.speakers, result ->> '$.speakers')) AS speaker
        WHERE status = 'completed' OR retries.job_id IS NOT NULL
    """,
    "failures": """
        SELECT id AS job_id, batch, inbox, path, error_code, error, attempts, crashes, finished_at,
               model, device, preset
        FROM jobs WHERE status = 'failed'
    """,
    "incidents": f"""
        SELECT incident.id AS incident_id, at, kind, phase, incident.device AS device, worker, job_id, path, chunk,
               summary || iif(incident.error = '', '', ': ' || incident.error) AS error,
               CASE action {_ACTION_CASES} END AS action,
               resolved_at, cost_seconds, action AS action_kind, summary, incident.error AS detail
        FROM incident_records AS incident LEFT JOIN jobs ON jobs.id = incident.job_id
    """,  # noqa: S608 - constants
    "throughput_hourly": """
        SELECT substr(finished_at, 1, 13) || ':00Z' AS hour,
               sum(status = 'completed') AS completed,
               sum(status = 'failed') AS failed,
               coalesce(sum(audio_seconds) FILTER (WHERE status = 'completed'), 0.0) AS audio_seconds,
               coalesce(sum(compute_seconds) FILTER (WHERE status = 'completed'), 0.0) AS compute_seconds,
               coalesce(sum(audio_seconds) FILTER (WHERE status = 'completed'), 0.0) / 3600.0 AS speed
        FROM jobs WHERE finished_at IS NOT NULL GROUP BY substr(finished_at, 1, 13)
    """,
    "transcript_text": """
        SELECT id AS job_id, path, iif(retries.job_id IS NULL, language, result ->> '$.language') AS language,
               coalesce(trim((
                   SELECT group_concat(text, '') FROM (
                       SELECT text FROM segments WHERE job_id = jobs.id ORDER BY track, start_seconds, chunk, position
                   )
               ), char(32, 9, 10, 11, 12, 13, 160, 12288)), '') AS text
        FROM jobs LEFT JOIN retries ON retries.job_id = jobs.id
        WHERE status = 'completed' OR retries.job_id IS NOT NULL
    """,
    "segments_text": """
        SELECT jobs.id AS job_id, path, segments.start_seconds AS start, segments.end_seconds AS "end",
               coalesce(
                   segments.language,
                   iif(retries.job_id IS NULL, jobs.language, result ->> '$.language')
               ) AS language, text, segments.track AS track,
               nullif(chunks.speaker_numbers ->> local_speaker, 0) AS speaker,
               (
                   SELECT coalesce(nullif(value ->> 'name', ''), 'Speaker ' || (value ->> 'number'))
                   FROM json_each(iif(retries.job_id IS NULL, jobs.speakers, result ->> '$.speakers'))
                   WHERE value ->> 'number' = chunks.speaker_numbers ->> local_speaker
               ) AS speaker_name, confidence
        FROM segments JOIN jobs ON jobs.id = segments.job_id
        LEFT JOIN chunks ON chunks.job_id = segments.job_id AND chunks.number = segments.chunk
        LEFT JOIN retries ON retries.job_id = jobs.id
        WHERE status = 'completed' OR retries.job_id IS NOT NULL
    """,
}


def build_view_statements(existing: Mapping[str, str]) -> list[str]:
    """Return the SQL statements that update the views; empty if they are up to date.

    `existing`: the SQL of the present views, by name.
    """
    wanted = {
        name: f"CREATE VIEW {name} AS {' '.join(query.split())}" for name, query in VIEWS.items()
    }
    outdated = [name for name in existing if existing[name] != wanted.get(name)]
    missing = [sql for name, sql in wanted.items() if existing.get(name) != sql]
    return [*(f"DROP VIEW {name}" for name in outdated), *missing]
