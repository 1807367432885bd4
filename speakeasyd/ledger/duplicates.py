"""Duplicate detection: when two files are the same, and what to do with the newer one. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from speakeasyd.domain.job import JobId, NewJob, Signature, Status

Duplicates = Literal["reuse", "skip", "transcribe"]

_LIVE = frozenset({Status.PENDING, Status.PROCESSING})
_WITHOUT_RESULT = frozenset({Status.FAILED, Status.CANCELLED, Status.SKIPPED})


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file that is recorded in the ledger."""

    job_id: JobId | None  # None: its job was pruned
    signature: Signature
    sha256: str
    status: Status

    @property
    def has_transcript(self) -> bool:
        """Return whether it has a transcript or will have one."""
        return self.status not in _WITHOUT_RESULT


@dataclass(frozen=True, slots=True)
class IdentityDecision:
    """What to do with a file that is added to the ledger."""

    status: Status
    same_as: JobId | None = None  # job of this same version of the file: no new row
    duplicate_of: JobId | None = None
    replaces: tuple[JobId, ...] = ()  # unfinished jobs of the same path whose bytes were replaced


def find_current(same_path: Sequence[KnownFile]) -> KnownFile | None:
    """Return the current version: the latest one with a transcript, else the latest one."""
    ordered = sorted(same_path, key=lambda known: known.job_id or 0)
    return next(
        (known for known in reversed(ordered) if known.has_transcript),
        ordered[-1] if ordered else None,
    )


def find_settled(same_path: Sequence[KnownFile]) -> list[KnownFile]:
    """Return the versions that need no new job when they are seen again, newest first.

    These are the current version and attempts after it. An older version that comes back is treated
    as a new version.
    """
    current = find_current(same_path)
    if current is None:
        return []
    newest = current.job_id or 0
    settled = [
        known
        for known in same_path
        if known.sha256 == current.sha256 or (known.job_id or 0) > newest
    ]
    return sorted(settled, key=lambda known: known.job_id or 0, reverse=True)


def decide_identity(
    new: NewJob, *, same_path: Sequence[KnownFile], same_bytes: Iterable[KnownFile]
) -> IdentityDecision:
    """Decide what to do with a new file. Returns its status and the jobs that it replaces.

    `same_path`: known versions of the same path. `same_bytes`: files with the same bytes under
    other paths whose transcript may be used for this one; empty if each file gets its own.
    """
    for known in find_settled(same_path):
        if known.job_id and (known.signature, known.sha256) == (new.signature, new.sha256):
            return IdentityDecision(status=known.status, same_as=known.job_id)
    replaces = tuple(
        k.job_id for k in same_path if k.job_id and k.status in _LIVE and k.sha256 != new.sha256
    )
    if new.failure:
        return IdentityDecision(status=Status.FAILED, replaces=replaces)
    current = find_current(same_path)
    same = [current] if current and current.sha256 == new.sha256 else []
    for known in (*same, *same_bytes):
        if known.has_transcript:
            return IdentityDecision(
                status=Status.SKIPPED, duplicate_of=known.job_id, replaces=replaces
            )
    return IdentityDecision(status=Status.PENDING, replaces=replaces)
