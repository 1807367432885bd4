"""Adding files to the ledger: which are new, what becomes of each, which ones still wait."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Row,
    delete,
    func,
    insert,
    null,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.clock import format_utc
from speakeasyd.domain.event_payloads import JobAdded, JobFailed, JobSkipped, Payload
from speakeasyd.domain.job import (
    TERMINAL,
    AddedJob,
    JobId,
    NewJob,
    Sighting,
    Signature,
    Status,
    WaitingFile,
)
from speakeasyd.domain.queue_order import compute_queue_key, estimate_seconds
from speakeasyd.domain.transcript import WarningKind
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.duplicates import (
    Duplicates,
    IdentityDecision,
    KnownFile,
    decide_identity,
    find_settled,
)
from speakeasyd.ledger.tables import NO_WAIT, arrivals, batches, jobs, tombstones
from speakeasyd.ledger.transitions import cancel_jobs, split_into_slices
from speakeasyd.ledger.writer import Transaction

# a replaced version that comes back counts as new
_NOT_REPLACED = jobs.c.error_code.is_distinct_from(ErrorCode.SOURCE_REPLACED)
_WHAT = ("inbox", "path_raw", "size", "mtime_ns", "inode", "sha256", "status")
_JOB = select(jobs.c.id, *(jobs.c[name] for name in _WHAT)).where(_NOT_REPLACED)
_ENDED_EARLY = (jobs.c.error_code == ErrorCode.SOURCE_REPLACED) | jobs.c.warning_kinds.contains(
    f'"{WarningKind.CUT}"'
)
_INCOMPLETE = (
    select(jobs.c.path_raw, func.count().label("versions"))
    .where(_ENDED_EARLY)
    .group_by(jobs.c.path_raw)
)
_PRUNED = select(null().label("id"), *(tombstones.c[name] for name in _WHAT))


def display_path(path: bytes) -> str:
    """Return a path for display and text columns; bytes that are not UTF-8 become `\\xff`."""
    return path.decode("utf-8", "backslashreplace")


def find_unknown_files(
    connection: Connection, inbox: str, sightings: Sequence[Sighting]
) -> list[Sighting]:
    """Return the files without a job, compared by path, size and times."""
    unknown: list[Sighting] = []
    for part in split_into_slices(sightings):
        paths = [sighting.path for sighting in part]
        versions: defaultdict[bytes, list[KnownFile]] = defaultdict(list)
        for row in connection.execute(_select_by_path(inbox, paths)):
            versions[row.path_raw].append(_build_known_file(row))
        known = {
            (path, version.signature)
            for path, versions_of_path in versions.items()
            for version in find_settled(versions_of_path)
        }
        unknown += [
            sighting for sighting in part if (sighting.path, sighting.signature) not in known
        ]
    return unknown


def add_jobs(
    tx: Transaction, new_jobs: Sequence[NewJob], *, duplicates: Duplicates = "reuse"
) -> list[AddedJob]:
    """Add a job for each file, or find the job that it has. One answer per file, in order.

    The files no longer count as waiting.
    """
    known_files = _KnownFiles(tx.connection, new_jobs, across_paths=duplicates == "skip")
    ids = count(_find_last_id(tx.connection) + 1)
    added: list[AddedJob] = []
    rows: list[dict[str, object]] = []
    replaced: list[JobId] = []
    for new in new_jobs:
        decision = decide_identity(
            new,
            same_path=known_files.find_same_path(new),
            same_bytes=known_files.find_same_bytes(new),
        )
        job_id = decision.same_as or JobId(next(ids))
        added.append(AddedJob(job_id, decision.status))
        if not decision.same_as:
            final_at = _final_at(
                tx.now, new, earlier=known_files.count_incomplete(new) + len(decision.replaces)
            )
            rows.append(
                _build_job_row(
                    tx, job_id, new, decision, final_at, lends=duplicates != "transcribe"
                )
            )
            replaced += decision.replaces
            known_files.remember_job(new, job_id, decision)
            _record_added_event(tx, job_id, new, decision)
    if rows:
        _insert_jobs(tx, rows)
    cancel_jobs(
        tx,
        replaced,
        code=ErrorCode.SOURCE_REPLACED,
        error="a newer version of the file replaced it",
    )
    _forget_waiting_files(tx, new_jobs)
    return added


def _forget_waiting_files(tx: Transaction, taken: Sequence[NewJob]) -> None:
    """Remove files that have a job from the arrivals that wait for long."""
    if tx.connection.scalar(select(arrivals.c.inbox).limit(1)) is None:
        return
    for new in taken:
        tx.connection.execute(
            delete(arrivals).where(arrivals.c.inbox == new.inbox, arrivals.c.path_raw == new.path)
        )


def store_waiting_files(tx: Transaction, inbox: str, files: Sequence[WaitingFile]) -> None:
    """Store the arrivals of an inbox that wait for long; replaces the earlier list."""
    tx.connection.execute(delete(arrivals).where(arrivals.c.inbox == inbox))
    if files:
        tx.connection.execute(
            insert(arrivals),
            [
                {
                    "inbox": inbox,
                    "path_raw": file.path,
                    "path": display_path(file.path),
                    "size": file.size,
                    "since": file.since,
                    "reason": file.reason,
                }
                for file in files
            ],
        )


class _KnownFiles:
    """The recorded files with the paths or bytes of the new ones; updated as jobs are added."""

    def __init__(
        self, connection: Connection, new_jobs: Sequence[NewJob], *, across_paths: bool
    ) -> None:
        self._across_paths = across_paths
        self._by_path: defaultdict[tuple[str, bytes], list[KnownFile]] = defaultdict(list)
        self._by_bytes: defaultdict[str, list[KnownFile]] = defaultdict(list)
        self._incomplete: dict[tuple[str, bytes], int] = {}
        for inbox in {new.inbox for new in new_jobs}:
            for part in split_into_slices([new.path for new in new_jobs if new.inbox == inbox]):
                for row in connection.execute(_select_by_path(inbox, part)):
                    self._by_path[row.inbox, row.path_raw].append(_build_known_file(row))
                for row in connection.execute(
                    _INCOMPLETE.where(jobs.c.inbox == inbox, jobs.c.path_raw.in_(part))
                ):
                    self._incomplete[inbox, row.path_raw] = row.versions
        for hashes in split_into_slices([new.sha256 for new in new_jobs] if across_paths else []):
            for row in connection.execute(_JOB.where(jobs.c.sha256.in_(hashes))):
                self._by_bytes[row.sha256].append(_build_known_file(row))

    def find_same_path(self, new: NewJob) -> Sequence[KnownFile]:
        return self._by_path[new.inbox, new.path]

    def find_same_bytes(self, new: NewJob) -> Sequence[KnownFile]:
        return self._by_bytes[new.sha256]

    def count_incomplete(self, new: NewJob) -> int:
        """Return how many versions of the file were incomplete or replaced before they ended."""
        return self._incomplete.get((new.inbox, new.path), 0)

    def remember_job(self, new: NewJob, job_id: JobId, decision: IdentityDecision) -> None:
        known = KnownFile(job_id, new.signature, new.sha256, decision.status)
        key = new.inbox, new.path
        self._by_path[key] = [
            old for old in self._by_path[key] if old.job_id not in decision.replaces
        ] + [known]
        if self._across_paths:
            self._by_bytes[new.sha256].append(known)


def _select_by_path(inbox: str, paths: Sequence[bytes]) -> CompoundSelect[Any]:
    return union_all(
        _JOB.where(jobs.c.inbox == inbox, jobs.c.path_raw.in_(paths)),
        _PRUNED.where(tombstones.c.inbox == inbox, tombstones.c.path_raw.in_(paths)),
    )


def _build_known_file(row: Row[Any]) -> KnownFile:
    return KnownFile(
        row.id, Signature(row.size, row.mtime_ns, row.inode), row.sha256, Status(row.status)
    )


def _find_last_id(connection: Connection) -> int:
    return connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")) or 0


def _insert_jobs(tx: Transaction, rows: Sequence[dict[str, object]]) -> None:
    names = {row["batch"] for row in rows}
    new_batches = upsert(batches).on_conflict_do_nothing()
    tx.connection.execute(new_batches, [{"name": name, "created_at": tx.now} for name in names])
    tx.connection.execute(insert(jobs), rows)


def _build_job_row(
    tx: Transaction,
    job_id: JobId,
    new: NewJob,
    decision: IdentityDecision,
    final_at: str | None,
    *,
    lends: bool,
) -> dict[str, object]:
    code, error = new.failure or (None, None)
    return {
        "id": job_id,
        "batch": new.batch,
        "inbox": new.inbox,
        "path_raw": new.path,
        "path": display_path(new.path),
        "size": new.signature.size,
        "mtime_ns": new.signature.mtime_ns,
        "inode": new.signature.inode,
        "sha256": new.sha256,
        "work_key": _compute_work_key(new) if lends else None,
        "options": new.options.model_dump_json(),
        "requested_model": new.options.model,
        "preset": new.preset,
        "priority": new.options.priority,
        "queue_key": _compute_queue_key(tx.now, new),
        "status": decision.status,
        "error_code": code,
        "error": error,
        "created_at": tx.now,
        "available_at": NO_WAIT,
        "finished_at": tx.now if decision.status in TERMINAL else None,
        "duplicate_of": decision.duplicate_of,
        "final_at": final_at,
    }


def _compute_queue_key(now: str, new: NewJob) -> float:
    seconds = estimate_seconds(display_path(new.path), new.signature.size)
    return compute_queue_key(datetime.fromisoformat(now).timestamp(), seconds)


def _final_at(now: str, new: NewJob, *, earlier: int) -> str | None:
    """Return the time until which a truncated file may still grow; None: its end is final at once.

    `earlier`: the number of earlier incomplete versions.
    """
    if new.patience is None:
        return None
    return format_utc(
        datetime.fromisoformat(now) + timedelta(seconds=new.patience.seconds(earlier))
    )


def _compute_work_key(new: NewJob) -> str:
    """Return a key that is equal for jobs with equal transcripts.

    Those have the same bytes and the same options, except for the options of the output.
    """
    options = new.options.model_dump_json(exclude={"formats", "name", "priority"})
    return hashlib.sha256(f"{new.sha256} {options}".encode()).hexdigest()[:32]


def _record_added_event(
    tx: Transaction, job_id: JobId, new: NewJob, decision: IdentityDecision
) -> None:
    inbox, path, batch = new.inbox, display_path(new.path), new.batch
    payload: Payload = JobAdded(inbox=inbox, path=path, batch=batch)
    if decision.status is Status.SKIPPED:
        payload = JobSkipped(
            inbox=inbox, path=path, batch=batch, duplicate_of=decision.duplicate_of
        )
    elif decision.status is Status.FAILED and new.failure:
        code, error = new.failure
        payload = JobFailed(inbox=inbox, path=path, batch=batch, error_code=code, error=error)
    tx.record_event(payload, job_id)
