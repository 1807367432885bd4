"""A job (one version of one audio file to transcribe) and its states."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NewType

from speakeasyd.domain.queue_order import QueueTurn
from speakeasyd.domain.transcript import WarningKind

if TYPE_CHECKING:  # commands that only need `Status` start sooner without it
    from speakeasyd.domain.options import Options

JobId = NewType("JobId", int)
Token = NewType("Token", str)
"""The fencing token of a claim. Every change to a `processing` job carries it.

A late report that belongs to a lost claim changes nothing.
"""


class Status(StrEnum):
    PENDING = "pending"
    """Waits for a worker, or, as a retry, for `available_at`."""
    PROCESSING = "processing"
    """Claimed: a worker is transcribing it, or its artifacts are being written."""
    COMPLETED = "completed"
    """Its artifacts are durable in the outbox."""
    FAILED = "failed"
    """Given up, with an `error_code`."""
    CANCELLED = "cancelled"
    """Stopped by a person, or obsolete because the file was replaced."""
    SKIPPED = "skipped"
    """The same content under the same path again; `duplicate_of` names the first job."""


class AttemptOutcome(StrEnum):
    """How an attempt ended. The value is stored in the ledger and returned by the API."""

    COMPLETED = "completed"
    """The job is completed."""
    FAILED = "failed"
    """The job failed, or its retry did."""
    CANCELLED = "cancelled"
    """A person or a newer version of the file stopped the job."""
    RELEASED = "released"
    """It ended early; the job waits for its next attempt."""
    CRASHED = "crashed"
    """Like released: a worker died, or the job made no progress."""
    INTERRUPTED = "interrupted"
    """The daemon ended during the attempt."""


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset(
        {Status.PROCESSING, Status.CANCELLED, Status.FAILED, Status.COMPLETED}
    ),
    Status.PROCESSING: frozenset(
        {Status.PENDING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}
    ),
    Status.COMPLETED: frozenset({Status.PENDING}),
    Status.FAILED: frozenset({Status.PENDING}),
    Status.CANCELLED: frozenset({Status.PENDING}),
    Status.SKIPPED: frozenset({Status.PENDING}),
}
"""The allowed transitions. From an end state to `pending`: a person asked for a retry.

A completed job whose retry is cancelled or fails becomes completed again, from `pending` or
`processing`: its transcript stays, and `retry_error` says why the retry failed.
"""

_63_BITS = 2**63 - 1

TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED})


@dataclass(frozen=True, slots=True)
class Signature:
    """Size, modification time and inode: equal signatures mean that the file was not written to."""

    size: int  # bytes
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Signature":
        """Return the signature of a stat result, cut to the 63 bits of SQLite's integers.

        Some filesystems have longer inode numbers or dates after 2262.
        """
        return cls(stat.st_size, stat.st_mtime_ns & _63_BITS, stat.st_ino & _63_BITS)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file that a scan or a watch event found."""

    path: bytes  # relative to the inbox, as os.fsencode gives it, '/' between parts
    signature: Signature


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """An arrival that has not settled for a long time, with the reason for users."""

    path: bytes
    size: int  # bytes
    since: str  # UTC, ISO 8601
    reason: str


@dataclass(frozen=True, slots=True)
class IncompleteWait:
    """How long a file that ends early may still grow before its end is final, in seconds."""

    first_s: float
    most_s: float

    def seconds(self, earlier: int) -> float:
        """Return the wait; it doubles with each earlier version that ended early and then grew."""
        return min(self.first_s * 2.0 ** min(earlier, 30), self.most_s)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A settled and hashed file that is to be added to the ledger."""

    inbox: str
    path: bytes  # relative to the inbox, as os.fsencode gives it, '/' between parts
    signature: Signature
    sha256: str
    options: "Options"
    preset: str | None
    batch: str
    # (error code, text) of a file that is refused on admission
    failure: tuple[str, str] | None = None
    # Of a file that may end early; None: it is known to be complete
    patience: "IncompleteWait | None" = None


@dataclass(frozen=True, slots=True)
class AddedJob:
    """The job that the ledger created for a `NewJob`."""

    job_id: JobId
    status: Status


@dataclass(frozen=True, slots=True)
class SuspectChunk:
    """A chunk that was on the device when a worker died and has not been committed since."""

    index: int
    start: float  # seconds in the file
    end: float  # seconds in the file
    strikes: int


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job."""

    id: JobId
    token: Token
    inbox: str
    path: bytes
    signature: Signature
    sha256: str  # hex, of the bytes that the job is about
    options: "Options"
    preset: str | None
    language: str | None  # detected in an earlier attempt
    done: frozenset[int] = frozenset()  # indexes of the committed chunks
    texts: Mapping[int, str] = field(
        default_factory=dict
    )  # their texts, which later chunks lean on; none for a gap
    languages: Mapping[int, str] = field(
        default_factory=dict
    )  # at the end of these chunks; none for a gap
    transcribed: bool = False  # every chunk is committed; only the artifacts are missing
    suspects: tuple[SuspectChunk, ...] = ()  # chunks to be tried alone first
    crashes: int = 0  # workers that died on this job outside of any chunk
    attempts: int = 1
    batch: str = ""
    warnings: frozenset[WarningKind] = frozenset()  # once it is transcribed
    # UTC, ISO 8601: a file that ends early may grow until then; None: it is complete
    final_at: str | None = None
    queue_key: float = 0.0  # see domain/queue_order.py

    @property
    def turn(self) -> QueueTurn:
        return QueueTurn(-self.options.priority, self.queue_key, self.id)

    def locate_source(self, root: Path) -> Path:
        """Return the absolute path of the source; `root` is the folder of its inbox."""
        return root / os.fsdecode(self.path)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What the disposal of a source (keep, move, delete) needs to know of its ended job."""

    job_id: JobId
    path: bytes
    signature: Signature
    sha256: str  # hex, of the bytes that the job was about
    # (error code, text); None: its transcript is in the outbox
    failure: tuple[str, str] | None = None
    warnings: frozenset[WarningKind] = frozenset()
