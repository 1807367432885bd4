"""What can go wrong, in words: every error says what happened, what to do, and whether trying again helps."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a job failed or was cancelled: the `error_code` of the ledger. `docs/errors.md` explains each to users."""

    EMPTY_FILE = "empty_file"
    """Zero bytes, and nothing more came."""
    NOT_MEDIA = "not_media"
    """No audio or video container that could be opened: text, pictures, archives, encrypted or random bytes."""
    NO_AUDIO = "no_audio"
    """A media file without an audio track."""
    NO_SAMPLES = "no_samples"
    """An audio track from which not one sample could be decoded: header only, protected, or damaged throughout."""
    DECODE_FAILED = "decode_failed"
    """The decoder gave up in a way that left nothing worth transcribing."""
    TOO_LONG = "too_long"
    """Longer than the allowed duration (`max_hours`)."""
    BAD_SIDECAR = "bad_sidecar"
    """The `<audio name>.toml` beside the file is not TOML, is too large, or has a wrong key or value."""
    SOURCE_MISSING = "source_missing"
    """The file was gone before it could be read."""
    SOURCE_REPLACED = "source_replaced"
    """New bytes came under the same name before this version was finished; the new version is a job of its own."""
    SOURCE_UNREADABLE = "source_unreadable"
    """The system refused to open the file: permissions, a lock, or a failing disk."""
    MODEL_UNAVAILABLE = "model_unavailable"
    """The model could not be found, fetched, checked or loaded."""
    LIBRARY_MISSING = "library_missing"
    """A library of the device is not installed (cuBLAS, a driver)."""
    DEVICE_FAILED = "device_failed"
    """The device failed on this job again and again, and nothing else was allowed to take it."""
    OUT_OF_MEMORY = "out_of_memory"
    """Not enough memory, even with the smallest settings."""
    POISON = "poison"
    """A stretch of this file takes workers down, on a fresh worker too."""
    WORKER_CRASHED = "worker_crashed"
    """Workers died on this job more often than the limit allows."""
    OUTPUT_REFUSED = "output_refused"
    """The transcript cannot be written where the naming template points."""
    CANCELLED = "cancelled"
    """A person cancelled the job."""
    INTERNAL = "internal"
    """A defect of speakeasyd itself; the log has the details."""


class SpeakeasyError(Exception):
    """An expected error: one sentence of what happened and, as `hint`, one of what to do."""

    exit_status = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class ConfigError(SpeakeasyError):
    """The configuration has a wrong key or value. Trying again without a change is of no use to a supervisor."""

    exit_status = 78  # EX_CONFIG of sysexits.h


class StartError(SpeakeasyError):
    """The daemon could not start."""

    exit_status = 2


class LedgerError(SpeakeasyError):
    """The ledger cannot be used: on a network filesystem, newer than this program, or damaged."""

    exit_status = 2


class LedgerDenied(LedgerError):
    """This user may not read the ledger, or not change it."""


class LedgerUnwritable(LedgerError):
    """The disk refused a write: full, read-only, or failing. Trying again later may help."""


class LedgerHeld(LedgerUnwritable):
    """Another program holds the ledger for long. Work goes on once it lets go."""


class QueryError(SpeakeasyError):
    """A query of a person's own is wrong, or wants more than to read."""

    exit_status = 2


class QueryTimeout(QueryError):
    """A query took longer than it may."""


class LedgerBusy(LedgerError):
    """Too many questions at once. Trying again later helps."""


class OutboxUnavailable(SpeakeasyError):
    """The outbox cannot be written just now: full, read-only, or away. Trying again later may help."""


class NotYours(SpeakeasyError):
    """A change was refused because the job is no longer owned by this claim: cancelled, taken back, or replaced."""


class FileFault(SpeakeasyError):
    """The file itself is at fault; trying again changes nothing. Other files go on."""

    def __init__(self, code: ErrorCode, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.code = code
