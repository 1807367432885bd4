"""The kinds of events. The part before the dot says what an event is about."""

from enum import StrEnum


class EventKind(StrEnum):
    """What happened. The value is stored in the ledger and is part of the API: it never changes.

    The data of each kind is defined in `event_payloads.py`.
    """

    JOB_ADDED = "job.added"
    """A new file has a job."""
    JOB_SKIPPED = "job.skipped"
    """A file has a job that is not done: the same content has one already."""
    JOB_CLAIMED = "job.claimed"
    """An attempt began."""
    JOB_LENT = "job.lent"
    """The transcript of another job with the same content is reused."""
    JOB_NOTED = "job.noted"
    """Something became known of a job: its length, language, model or device. Not stored."""
    JOB_TRANSCRIBED = "job.transcribed"
    """All chunks are committed; the artifacts are not written yet."""
    JOB_COMPLETED = "job.completed"
    """The artifacts are in the outbox."""
    JOB_FAILED = "job.failed"
    """A job was given up, or its file was refused."""
    JOB_CANCELLED = "job.cancelled"
    """A person stopped a job, or a newer version of its file replaced it."""
    JOB_RELEASED = "job.released"
    """An attempt ended early; the job waits for the next one, with its chunks kept."""
    JOB_RETRIED = "job.retried"
    """A person asked to try a job again, or not to wait any longer."""
    JOB_RETRY_FAILED = "job.retry_failed"
    """The retry of a completed job failed; its earlier transcript is kept."""
    JOB_RETRY_CANCELLED = "job.retry_cancelled"
    """The retry of a completed job was cancelled; its earlier transcript is kept."""
    JOB_SPEAKERS_CHANGED = "job.speakers_changed"
    """A person changed the speakers of a completed job; its artifacts are written again."""
    JOB_RECOVERED = "job.recovered"
    """A job that an earlier daemon left unfinished waits again; it continues from its chunks."""
    CHUNK_DONE = "chunk.done"
    """The text of a chunk is committed."""
    CHUNK_STRUCK = "chunk.struck"
    """A worker died while a chunk was on its device."""
    BATCH_COMPLETED = "batch.completed"
    """All jobs of a batch have ended, and none was added for some seconds."""
    MODEL_HELD = "model.held"
    """The waiting jobs for a model that cannot be loaded are postponed."""
    INCIDENT_OPENED = "incident.opened"
    """A worker or a job failed by a fault that is not the file's."""
    INCIDENT_RESOLVED = "incident.resolved"
    """The worker of an incident works again."""
    SOURCE_PUT_AWAY = "source.put_away"
    """A source was archived, deleted, or moved to the failed folder. Not stored."""
    SOURCE_KEPT = "source.kept"
    """A source stays in the inbox although the settings would move or delete it. Not stored."""
    SOURCE_STUCK = "source.stuck"
    """A source cannot be moved or deleted; it is tried again. Not stored."""
    QUEUE_PAUSED = "queue.paused"
    """Work is paused, or the reason of a pause changed. Not stored."""
    QUEUE_RESUMED = "queue.resumed"
    """A pause has ended. Not stored."""
    FAILURE_BEGUN = "failure.begun"
    """A service of the daemon fails, or a job makes no progress. Not stored."""
    FAILURE_ENDED = "failure.ended"
    """It works again. Not stored."""
    NOTICE_POSTPONED = "notice.postponed"
    """A delivery failed and is tried again. Not stored."""
    NOTICE_FAILED = "notice.failed"
    """A delivery was given up."""
    RECORDER_STARTED = "recorder.started"
    """A recording began. Not stored."""
    RECORDER_LEVEL = "recorder.level"
    """Length and level of the recording so far, several times a second. Not stored."""
    RECORDER_OVERFLOW = "recorder.overflow"
    """Audio was lost because the machine was too slow. Not stored."""
    RECORDER_STOPPED = "recorder.stopped"
    """A recording ended and is in the inbox. Not stored."""
    RECORDER_FAILED = "recorder.failed"
    """A recording ended by an error; what was recorded is kept. Not stored."""
    RELOAD_REQUESTED = "daemon.reload_asked"
    """A person asked the daemon to reload its configuration."""
    PAUSE_REQUESTED = "daemon.pause_asked"
    """A person asked the daemon to pause."""
    RESUME_REQUESTED = "daemon.resume_asked"
    """A person asked the daemon to resume."""
    STOP_REQUESTED = "daemon.stop_asked"
    """A person asked the daemon to stop."""
    CONFIG_RELOADED = "config.reloaded"
    """The configuration was reloaded. Not stored."""
    CONFIG_REFUSED = "config.refused"
    """The configuration was not reloaded: it has an error. Not stored."""


JOB_ENDED = frozenset(
    {
        EventKind.JOB_COMPLETED,
        EventKind.JOB_FAILED,
        EventKind.JOB_CANCELLED,
        EventKind.JOB_SKIPPED,
        EventKind.JOB_RETRY_FAILED,
        EventKind.JOB_RETRY_CANCELLED,
    }
)
"""After these a job does nothing more, unless a person retries it."""
