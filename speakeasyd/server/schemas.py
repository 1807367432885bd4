"""The answers of the API: rows of the public views, and errors. Shown in the API's schema."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from speakeasyd.domain.incidents import IncidentAction
from speakeasyd.domain.job import AttemptOutcome, Status
from speakeasyd.domain.pausing import PauseKind


class Answer(BaseModel):
    """Later versions may add keys."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, protected_namespaces=())


class Problem(Answer):
    message: str
    hint: str = ""
    """What to do."""


class ErrorAnswer(Answer):
    error: Problem


class JobAnswer(Answer):
    """A row of the view `job_status`. Times are UTC, ISO 8601."""

    job_id: int
    batch: str
    inbox: str
    path: str
    """Relative to the inbox."""
    status: Status
    progress: float = Field(ge=0, le=1)
    attempts: int
    audio_seconds: float | None
    language: str | None
    model: str | None
    device: str | None
    error_code: str | None
    error: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    available_at: str
    """Not started before this time."""
    preset: str | None
    warning: str | None
    bytes: int
    sha256: str
    priority: int
    duplicate_of: int | None
    warning_kinds: str | None
    superseded_by: int | None
    retry_error: str | None
    """Why the last retry of a completed job failed. Its earlier transcript is kept."""
    has_transcript: bool
    """Whether there is a finished transcript, also during a retry."""
    container_seconds: float | None
    """The length that the file declares."""


class Attempt(Answer):
    started_at: str
    ended_at: str | None
    outcome: AttemptOutcome | None
    """null: it is not over."""
    model: str | None
    device: str | None
    error_code: str | None
    error: str | None


class WrittenArtifact(Answer):
    format: str
    outbox: str
    path: str
    """Relative to the outbox."""
    bytes: int
    sha256: str
    written_at: str | None


class IncidentAnswer(Answer):
    at: str
    kind: str
    device: str | None
    error: str
    action: str
    """What is done about it, for people."""
    action_kind: IncidentAction
    summary: str
    """What happened: `error` without the original message."""
    detail: str
    """The original message; may be empty."""


class JobDetails(JobAnswer):
    attempts_made: list[Attempt]
    artifacts: list[WrittenArtifact]
    incidents: list[IncidentAnswer]
    advice: str | None
    """What the user can do about the error."""


class Jobs(Answer):
    jobs: list[JobAnswer]
    next: int | None
    """The `before` of the next page; null if there is none, or if they are sorted otherwise."""
    total: int
    """Jobs that match the filters, on all pages."""


class JobSelection(BaseModel):
    job_ids: list[int] = Field(max_length=10_000)


class Batch(Answer):
    """A row of the view `batch_progress`."""

    batch: str
    total: int
    pending: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    skipped: int
    audio_seconds: float
    progress: float
    created_at: str


class Batches(Answer):
    batches: list[Batch]


class UploadedFile(Answer):
    path: str
    """Relative to the inbox."""
    bytes: int
    job_id: int
    status: Status
    """`skipped`: this path had the same bytes before."""


class Upload(Answer):
    batch: str
    inbox: str
    files: list[UploadedFile]


class PauseDescription(Answer):
    kind: PauseKind
    name: str
    """Of the inbox that it concerns; empty: every inbox."""
    reason: str
    ends_by_itself: bool
    """Else it lasts until `resume`."""


class Paused(Answer):
    pauses: dict[str, str]
    """Reasons by cause."""


class SearchHitAnswer(Answer):
    job_id: int
    path: str
    start: float
    end: float
    channel: int | None
    created_at: str
    snippet: str
    """Matches are in brackets."""
    speaker: str | None
    """Who says it, if speakers were told apart."""


class SearchHitsAnswer(Answer):
    hits: list[SearchHitAnswer]
    next: int | None
    """The `offset` of the next hits; null if there are none."""


class SpeakerAnswer(Answer):
    """A row of the view `speakers`."""

    speaker: int
    """From 1."""
    name: str
    """`Speaker 2` if it is not known."""
    seconds: float
    """Of speech."""
    share: float | None
    """Of the speech of all speakers, 0 to 1."""
    words: int
    similarity: float | None
    """To the voice of a known person; null if a user gave the name."""
    suggestion: str | None
    """A known person who it may be."""


class SpeakersAnswer(Answer):
    speakers: list[SpeakerAnswer]
    """Empty unless speakers were told apart."""


class ChangedSpeakers(Answer):
    speakers: list[str]
    """Their names, by number, as the transcript will have them once it is written again."""


class VoiceSampleAnswer(Answer):
    source: str
    """A file's name, or a job and its speaker."""
    seconds: float
    """Of speech."""
    model: str
    """Of the embedding. Samples of other models are not compared."""


class PersonAnswer(Answer):
    """A person whose voice is recognised."""

    name: str
    created_at: str
    samples: list[VoiceSampleAnswer]


class PeopleAnswer(Answer):
    people: list[PersonAnswer]


class ChangedJobs(Answer):
    jobs: list[int]


class Hour(Answer):
    """A row of the view `throughput_hourly`."""

    hour: str
    completed: int
    failed: int
    audio_seconds: float
    compute_seconds: float
    speed: float


class Hours(Answer):
    hours: list[Hour]


class FormatAnswer(Answer):
    """A format in which a transcript can be written and downloaded."""

    name: str
    """The value of `format` in requests, and the ending of the files."""
    media_type: str
    description: str
    """One line of Markdown."""


class Formats(Answer):
    formats: list[FormatAnswer]


class Overview(Answer):
    """A snapshot of the daemon."""

    version: str
    seq: int
    """Number of the newest event."""
    counts: dict[str, int]
    """Jobs by status."""
    speed: float | None
    """Seconds of audio per second, over the last minutes."""
    left_s: float | None
    """Seconds until the queue is empty; null while it is paused or if no speed is known."""
    progress: float | None
    """Of the unfinished batches, by seconds of audio, 0 to 1; null if no length is known."""
    pauses: dict[str, str]
    """Reasons by cause, for people."""
    paused_by: list[PauseDescription]
    failures: dict[str, str]
    """Failing services and their errors."""
    workers: list[dict[str, object]]
    inboxes: list[dict[str, object]]
    waiting: list[dict[str, object]]
    """Files that have not settled."""
    incidents: list[dict[str, object]]
    batches: list[Batch]
    in_work: list[dict[str, object]]
    """The jobs that are being transcribed. `left_s`: seconds until it is done; null as above."""
    ended: list[dict[str, object]]
    """The most recent."""
    models: list[str]
    """Those that an upload may choose."""
    presets: list[str]
    inbox_names: list[str]
    recorder: bool
    """Whether this machine can record."""


class HealthAnswer(Answer):
    status: Literal["ok", "failing"]
    checks: dict[str, str]
