"""When two files are the same, and what that makes of the newer one. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from speakeasyd.domain.job import JobId, NewJob, Signature, Status

Duplicates = Literal["reuse", "skip", "transcribe"]

_LIVE = frozenset({Status.PENDING, Status.PROCESSING})
_WITHOUT_RESULT = frozenset({Status.FAILED, Status.CANCELLED, Status.SKIPPED})


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as the ledger remembers it."""

    job_id: JobId | None  # None: its job was pruned
    signature: Signature
    sha256: str
    status: Status

    @property
    def has_transcript(self) -> bool:
        """Whether it has a transcript, or will have one."""
        return self.status not in _WITHOUT_RESULT


@dataclass(frozen=True, slots=True)
class IdentityDecision:
    """What becomes of a file at the ledger's door."""

    status: Status
    same_as: JobId | None = None  # this very file has a job already: no new row
    duplicate_of: JobId | None = None
    replaces: tuple[JobId, ...] = ()  # unfinished jobs of the same path whose bytes are gone


def find_current(same_path: Sequence[KnownFile]) -> KnownFile | None:
    """The version of a file that its transcript belongs to: the latest that has one, else the latest."""
    ordered = sorted(same_path, key=lambda known: known.job_id or 0)
    return next(
        (known for known in reversed(ordered) if known.has_transcript),
        ordered[-1] if ordered else None,
    )


def find_settled(same_path: Sequence[KnownFile]) -> list[KnownFile]:
    """The versions that need no new job when they are seen: the current one, and attempts after it; newest first.

    An earlier one that comes back is a new version.
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
    """`same_bytes`: files under other paths whose transcript may serve for this one; none if it is to have its own."""
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
