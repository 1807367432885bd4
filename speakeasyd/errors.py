"""The error codes of jobs, and the exceptions of speakeasyd.

Every error says what happened and what to do; its class says whether a retry can help.
"""

from enum import StrEnum

INTERRUPTED = 130  # exit status of a command that Ctrl-C ended


class ErrorCode(StrEnum):
    """Why a job failed or was cancelled: `error_code` in the ledger.

    `docs/errors.md` explains each code to users.
    """

    EMPTY_FILE = "empty_file"
    """The file has zero bytes and stayed empty."""
    NOT_MEDIA = "not_media"
    """Not audio or video that can be decoded: text, a picture, an archive, random bytes, DS2 (DSS Pro)."""
    NO_AUDIO = "no_audio"
    """A media file without an audio track."""
    NO_SAMPLES = "no_samples"
    """No sample of the audio track could be decoded: header only, protected, or damaged."""
    DECODE_FAILED = "decode_failed"
    """The decoder failed and left no audio to transcribe."""
    TOO_LONG = "too_long"
    """Longer than the allowed duration (`max_hours`)."""
    BAD_SIDECAR = "bad_sidecar"
    """The sidecar (`<audio name>.toml`) is not TOML, is too large, or has a wrong key or value."""
    SOURCE_MISSING = "source_missing"
    """The file was removed before it could be read."""
    SOURCE_REPLACED = "source_replaced"
    """The file was replaced before this version was finished; the new version is another job."""
    SOURCE_LINKED = "source_linked"
    """A link is at the place of the file or of a folder above it. Links are not followed."""
    SOURCE_UNREADABLE = "source_unreadable"
    """The system refused to open the file: permissions, a lock, or a failing disk."""
    MODEL_UNAVAILABLE = "model_unavailable"
    """The model could not be found, downloaded, verified or loaded."""
    LIBRARY_MISSING = "library_missing"
    """A library of the device is not installed (cuBLAS, a driver)."""
    DEVICE_FAILED = "device_failed"
    """The device failed on this job repeatedly, and no other device was allowed to run it."""
    OUT_OF_MEMORY = "out_of_memory"
    """Not enough memory, even with the smallest settings."""
    POISON = "poison"
    """A chunk of this file ends workers, a fresh worker as well (poison chunk)."""
    WORKER_CRASHED = "worker_crashed"
    """Workers died on this job more often than the limit allows."""
    OUTPUT_REFUSED = "output_refused"
    """The transcript cannot be written to the path that the naming template gives."""
    CANCELLED = "cancelled"
    """A person cancelled the job."""
    INTERNAL = "internal"
    """A bug in speakeasyd; the log has the details."""


class SpeakeasyError(Exception):
    """An expected error: a sentence that says what happened, and a `hint` that says what to do."""

    exit_status = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class ConfigError(SpeakeasyError):
    """The configuration has a wrong key or value.

    A restart does not help; by the exit status a service manager can recognise that.
    """

    exit_status = 78  # EX_CONFIG of sysexits.h


class StartError(SpeakeasyError):
    """The daemon could not start."""

    exit_status = 2


class LedgerError(SpeakeasyError):
    """The ledger cannot be used: on a network filesystem, newer than this program, or damaged."""

    exit_status = 2


class LedgerUnwritable(LedgerError):
    """The ledger cannot be used just now. Trying again later may help."""


class LedgerMissing(LedgerUnwritable):
    """There is no ledger, or no state folder."""


class LedgerDenied(LedgerUnwritable):
    """This user may not read the ledger, or not change it."""


class LedgerReadOnly(LedgerUnwritable):
    """The ledger is on a filesystem that is mounted read-only."""


class LedgerFull(LedgerUnwritable):
    """The disk of the ledger is full."""


class LedgerHeld(LedgerUnwritable):
    """Another program keeps the ledger locked. A retry helps once it has released the lock."""


class QueryError(SpeakeasyError):
    """A user's SQL query is wrong, or does more than read."""

    exit_status = 2


class QueryTimeout(QueryError):
    """A query exceeded its time limit."""


class LedgerBusy(LedgerError):
    """Too many queries at once. A later retry helps."""


class OutboxUnavailable(SpeakeasyError):
    """The outbox cannot be written now: full, read-only, or not mounted. A later retry may help."""


class ClaimLost(SpeakeasyError):
    """A change was refused because this claim no longer owns the job.

    The job was cancelled, released or replaced; the claim token is stale.
    """


class FileFault(SpeakeasyError):
    """The file itself is at fault: a retry does not help. Other files are not affected."""

    def __init__(self, code: ErrorCode, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.code = code
