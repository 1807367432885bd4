"""Settings: one TOML file, environment variables, flags; checked once, then read-only."""

from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path, user_documents_path
from pydantic import BaseModel, ConfigDict, Field

from speakeasyd.domain.options import Options


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InboxSettings(Table):
    """One watched folder and where its transcripts go."""

    name: str = Field("inbox", pattern=r"^[\w-]+$")
    path: Path = Field(default_factory=lambda: user_documents_path() / "speakeasyd" / "inbox")
    outbox: Path = Field(default_factory=lambda: user_documents_path() / "speakeasyd" / "outbox")
    preset: str | None = None
    sources: Literal["keep", "archive", "delete"] = "keep"
    """What becomes of a source once its transcript is durable."""
    archive: Path | None = None
    failed: Path | None = None
    """Where sources of failed jobs are moved, with a note of why; left where they are if not set."""


class WatchSettings(Table):
    settle_s: float = Field(2.0, ge=0, le=3600)
    """Seconds that size and times must be still before a file counts as complete."""
    rescan_s: float = Field(300.0, ge=1)
    """Seconds between two scans of the whole inbox; events only make things quicker."""
    poll_s: float = Field(5.0, ge=0.5)
    """Seconds between scans where the filesystem gives no events."""
    poll: Literal["auto", "always", "never"] = "auto"
    empty_s: float = Field(30.0, ge=0)
    """Seconds after which a file that stays at zero bytes is given up."""
    extensions: tuple[str, ...] = (
        "3ga",
        "3gp",
        "aac",
        "ac3",
        "aif",
        "aifc",
        "aiff",
        "alac",
        "amr",
        "ape",
        "asf",
        "au",
        "avi",
        "awb",
        "caf",
        "dsf",
        "dts",
        "eac3",
        "flac",
        "flv",
        "gsm",
        "m2ts",
        "m4a",
        "m4b",
        "m4v",
        "mka",
        "mkv",
        "mov",
        "mp1",
        "mp2",
        "mp3",
        "mp4",
        "mpc",
        "mpeg",
        "mpg",
        "mts",
        "mxf",
        "oga",
        "ogg",
        "ogv",
        "opus",
        "qcp",
        "ra",
        "rm",
        "snd",
        "spx",
        "tak",
        "ts",
        "tta",
        "vob",
        "voc",
        "w64",
        "wav",
        "weba",
        "webm",
        "wma",
        "wmv",
        "wv",
    )
    unknown: Literal["ignore", "try"] = "ignore"
    """A file whose extension is not listed: `ignore` it, or `try` it and fail it if it is not media."""
    ignore: tuple[str, ...] = (
        ".*",
        "*~",
        "*.part",
        "*.filepart",
        "*.partial",
        "*.crdownload",
        "*.download",
        "*.tmp",
        "*.temp",
        "~*",
        "@eaDir",
        "Thumbs.db",
        "desktop.ini",
        "lost+found",
        "System Volume Information",
        "$RECYCLE.BIN",
    )
    """Shell patterns of names, of files and of folders, that are never looked at."""
    duplicates: Literal["reuse", "skip", "transcribe"] = "reuse"
    """The same bytes under another path: `reuse` the transcript, `skip` the file, or `transcribe` it again."""


class WorkerSettings(Table):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = "auto"
    compute_type: str = "auto"
    replicas: int = Field(0, ge=0)
    batch_size: int = Field(0, ge=0)
    idle_unload_s: float = Field(600.0, ge=0)
    """Seconds without work after which the model is freed; 0 keeps it for ever."""
    offline: bool = False
    """Never ask the Hugging Face hub: only what is already there."""
    max_hours: float = Field(24.0, gt=0)
    """Longer audio is refused."""


class RecoverySettings(Table):
    max_attempts: int = Field(5, ge=1)
    """Attempts at one job, deaths of workers that were not its fault aside."""
    retry_s: float = Field(5.0, ge=0)
    """First wait before a retry; doubles each time, with jitter."""
    retry_max_s: float = Field(900.0, ge=1)
    stall_s: float = Field(120.0, ge=5)
    """Seconds without a sign of progress after which a busy worker is killed; while a model loads, longer."""
    cpu_fallback: bool = True
    """Let the CPU take a chunk that a GPU has failed on twice."""
    on_poison: Literal["fail", "gap"] = "gap"
    """A chunk that nothing can transcribe: `fail` the job, or complete it with a marked `gap`."""
    cpu_stand_in: bool = False
    """Let the CPU do all the work while no GPU can; else the queue waits for the GPU."""
    recycle_hours: float = Field(24.0, ge=0)
    """Hours of audio after which a worker is replaced by a fresh one, between two files; 0 never."""
    recycle_growth_mb: int = Field(2048, ge=0)
    """Growth of a worker's memory, in MB, after which it is replaced; 0 never."""
    stop_grace_s: float = Field(20.0, ge=0)
    """Seconds to finish the chunks in flight when asked to stop."""


class LedgerSettings(Table):
    keep_days: int = Field(0, ge=0)
    """Days after which ended jobs are removed from the ledger; 0 keeps them for ever."""
    keep_event_days: int = Field(30, ge=1)


class LogSettings(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    """`auto`: human on a terminal, JSON lines elsewhere."""
    transcripts: bool = False
    """Let transcript text appear in the log."""


class Settings(Table):
    """Everything that can be set. `load` makes one; the rest of the program only reads it."""

    state: Path = Field(default_factory=lambda: user_data_path("speakeasyd", appauthor=False))
    """Folder of the ledger, its lock and downloaded models. Not on a network filesystem."""
    inboxes: tuple[InboxSettings, ...] = Field(default_factory=lambda: (InboxSettings(),), min_length=1)
    options: Options = Options()
    """Options of every job, unless a preset or a sidecar says otherwise."""
    presets: dict[str, dict[str, object]] = Field(default_factory=dict)
    """By name: the options that differ."""
    watch: WatchSettings = WatchSettings()
    workers: WorkerSettings = WorkerSettings()
    recovery: RecoverySettings = RecoverySettings()
    ledger: LedgerSettings = LedgerSettings()
    log: LogSettings = LogSettings()
