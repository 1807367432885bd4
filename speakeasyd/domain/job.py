"""A job: one version of one audio file to transcribe, and the states it goes through."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NewType

from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import WarningKind

JobId = NewType("JobId", int)
Token = NewType("Token", str)
"""Proof of a claim. Every change to a `processing` job carries it: a late answer from a lost claim changes nothing."""


class Status(StrEnum):
    PENDING = "pending"
    """Waits for a worker, or for `available_at` when it is a retry."""
    PROCESSING = "processing"
    """Claimed: a worker transcribes it, or its artifacts are being written."""
    COMPLETED = "completed"
    """Its artifacts are durable in the outbox."""
    FAILED = "failed"
    """Given up, with an `error_code`."""
    CANCELLED = "cancelled"
    """Stopped by a person, or made moot because the file was replaced."""
    SKIPPED = "skipped"
    """The same bytes again under the same path; `duplicate_of` names the first job."""


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
"""From the key to any of the values; back to `pending` from an end state is a retry that a person asked for.

A completed job whose retry is cancelled or fails is completed again, from `pending` or `processing`: its finished
transcript stays, and `retry_error` says why the retry failed.
"""

_63_BITS = 2**63 - 1

TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED})


@dataclass(frozen=True, slots=True)
class Signature:
    """What `stat` says of a file's content; equal signatures mean that nobody has written to it in between."""

    size: int  # bytes
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Signature":
        """Cut to the 63 bits that SQLite's integers hold: some filesystems have longer inodes, or dates past 2262."""
        return cls(stat.st_size, stat.st_mtime_ns & _63_BITS, stat.st_ino & _63_BITS)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as a scan or an event found it."""

    path: bytes  # relative to the inbox, as os.fsencode gives it, '/' between parts
    signature: Signature


@dataclass(frozen=True, slots=True)
class WaitingFile:
    """An arrival that has not settled for long, and why: for the people who ask."""

    path: bytes
    size: int  # bytes
    since: str  # UTC, ISO 8601
    reason: str


@dataclass(frozen=True, slots=True)
class IncompleteWait:
    """How long a file that ends early may still go on before its end is final."""

    first_s: float
    most_s: float

    def seconds(self, earlier: int) -> float:
        """`earlier`: versions of the file that ended early and then went on."""
        return min(self.first_s * 2.0 ** min(earlier, 30), self.most_s)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A settled, identified file, on its way into the ledger."""

    inbox: str
    path: bytes  # relative to the inbox, as os.fsencode gives it, '/' between parts
    signature: Signature
    sha256: str
    options: Options
    preset: str | None
    batch: str
    # (error code, text) of a file that is refused at the door
    failure: tuple[str, str] | None = None
    # With a file that ends early; None: it is known to be complete
    patience: "IncompleteWait | None" = None


@dataclass(frozen=True, slots=True)
class AddedJob:
    """What became of a `NewJob`."""

    job_id: JobId
    status: Status


@dataclass(frozen=True, slots=True)
class SuspectChunk:
    """A chunk that was on the device when a worker died, not committed since."""

    index: int
    start: float  # seconds in the file
    end: float  # seconds in the file
    strikes: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was claimed."""

    id: JobId
    token: Token
    inbox: str
    path: bytes
    signature: Signature
    sha256: str  # hex, of the bytes that the job is about
    options: Options
    preset: str | None
    language: str | None  # known from an earlier attempt
    done: frozenset[int] = frozenset()  # indexes of the chunks that are committed
    said: Mapping[int, str] = field(
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
    # UTC, ISO 8601: before that, the file may go on if it ends early; None: it is complete
    final_at: str | None = None

    def locate_source(self, root: Path) -> Path:
        """The file below its inbox's root."""
        return root / os.fsdecode(self.path)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """What is to be known of an ended job when its source is put away."""

    job_id: JobId
    path: bytes
    signature: Signature
    sha256: str  # hex, of the bytes that the job was about
    # (error code, text); None: its transcript is in the outbox
    failure: tuple[str, str] | None = None
    warnings: frozenset[WarningKind] = frozenset()
