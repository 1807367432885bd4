"""Uploads: what identifies a request, and what is remembered of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OWN_KEY = "none "  # beginning of the key of a request that has none
OWN_KEPT_HOURS = 0.1  # hours, for a request without a key: only its own handler asks for it
KEPT_HOURS = 24.0  # hours for which a repeated request gets the same answer


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """An upload whose files are received but not in the inbox yet."""

    key: str  # the client's idempotency key, or one of our own
    fingerprint: str  # hash of all that the client sent
    inbox: str
    changes: Mapping[str, object]  # options as in a sidecar
    hashes: tuple[str, ...]  # SHA-256 of each file


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """An upload whose jobs are in the ledger."""

    fingerprint: str
    files: Sequence[Mapping[str, Any]]  # path, bytes and job_id of each
