"""Into the ledger: which files are new, what becomes of each, and which ones still wait."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any

from sqlalchemy import Connection, delete, insert, literal, null, select, text, union_all
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.domain.job import Added, JobId, NewJob, Sighting, Signature, Status, Waiting
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.identity import Decision, Duplicates, Known, decide
from speakeasyd.ledger.tables import arrivals, batches, jobs, tombstones
from speakeasyd.ledger.transitions import cancel, slices
from speakeasyd.ledger.writer import Transaction

_FILE = (jobs.c.path_raw, jobs.c.size, jobs.c.mtime_ns, jobs.c.inode)
_PRUNED_FILE = (tombstones.c.path_raw, tombstones.c.size, tombstones.c.mtime_ns, tombstones.c.inode)


def display(path: bytes) -> str:
    """A path for people and for text columns: bytes that are no UTF-8 are written as `\\xff`."""
    return path.decode("utf-8", "backslashreplace")


def unknown(connection: Connection, inbox: str, sightings: Sequence[Sighting]) -> list[Sighting]:
    """Those that no job is about. A version that was replaced and has come back counts as new."""
    found: list[Sighting] = []
    for part in slices(sightings):
        paths = [sighting.path for sighting in part]
        here = (jobs.c.inbox == inbox) & jobs.c.path_raw.in_(paths)
        query = union_all(
            select(*_FILE).where(here, jobs.c.error_code.is_distinct_from(ErrorCode.SOURCE_REPLACED)),
            select(*_PRUNED_FILE).where(tombstones.c.inbox == inbox, tombstones.c.path_raw.in_(paths)),
        )
        known = {(path, Signature(*signature)) for path, *signature in connection.execute(query)}
        found += [sighting for sighting in part if (sighting.path, sighting.signature) not in known]
    return found


def add(tx: Transaction, new_jobs: Sequence[NewJob], *, duplicates: Duplicates) -> list[Added]:
    """Give each file a job, or tell which job it has already. One answer for each, in the same order."""
    memory = _Memory(tx.connection, new_jobs, across_paths=duplicates == "skip")
    ids = count(_last_id(tx.connection) + 1)
    added: list[Added] = []
    rows: list[dict[str, object]] = []
    replaced: list[JobId] = []
    for new in new_jobs:
        decision = decide(new, same_path=memory.same_path(new), same_bytes=memory.same_bytes(new))
        job_id = decision.same_as or JobId(next(ids))
        added.append(Added(job_id, decision.status))
        if not decision.same_as:
            rows.append(_row(tx, job_id, new, decision, lends=duplicates != "transcribe"))
            replaced += decision.replaces
            memory.remember(new, Known(job_id, new.signature, new.sha256, decision.status))
            _tell(tx, job_id, new, decision)
    if rows:
        _insert(tx, rows)
    cancel(tx, replaced, code=ErrorCode.SOURCE_REPLACED, error="a newer version of the file came under the same name")
    return added


def waiting(tx: Transaction, inbox: str, files: Sequence[Waiting]) -> None:
    """Say which arrivals of an inbox wait for long, in place of what was said before."""
    tx.connection.execute(delete(arrivals).where(arrivals.c.inbox == inbox))
    if files:
        tx.connection.execute(
            insert(arrivals),
            [
                {
                    "inbox": inbox,
                    "path_raw": file.path,
                    "path": display(file.path),
                    "size": file.size,
                    "since": file.since,
                    "reason": file.reason,
                }
                for file in files
            ],
        )


class _Memory:
    """What the ledger knows of files like those at the door, kept up while they go in one after the other."""

    def __init__(self, connection: Connection, new_jobs: Sequence[NewJob], *, across_paths: bool) -> None:
        self._across_paths = across_paths
        self._by_path: defaultdict[tuple[str, bytes], list[Known]] = defaultdict(list)
        self._by_bytes: defaultdict[str, list[Known]] = defaultdict(list)
        for part in slices(new_jobs):
            for row in connection.execute(_same_path(part)):
                self._by_path[row.inbox, row.path_raw].append(_known(row))
            if across_paths:
                for row in connection.execute(_same_bytes(part)):
                    self._by_bytes[row.sha256].append(_known(row))

    def same_path(self, new: NewJob) -> Sequence[Known]:
        return self._by_path[new.inbox, new.path]

    def same_bytes(self, new: NewJob) -> Sequence[Known]:
        return self._by_bytes[new.sha256]

    def remember(self, new: NewJob, known: Known) -> None:
        self._by_path[new.inbox, new.path].append(known)
        if self._across_paths:
            self._by_bytes[new.sha256].append(known)


def _same_path(part: Sequence[NewJob]) -> Any:
    paths, inboxes = [new.path for new in part], sorted({new.inbox for new in part})
    ...
