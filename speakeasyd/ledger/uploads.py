"""Uploads under way, and the answers to those that are done.

A request is recorded before its files appear in the inbox. If the daemon is killed before the jobs
are added, the next one finds the options of these files here, by their hashes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from speakeasyd.clock import format_utc
from speakeasyd.domain.job import AddedJob, NewJob
from speakeasyd.domain.uploads import (
    KEPT_HOURS,
    OWN_KEPT_HOURS,
    OWN_KEY,
    FinishedUpload,
    UploadRequest,
)
from speakeasyd.ledger.duplicates import Duplicates
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.tables import upload_keys
from speakeasyd.ledger.writer import Transaction


def begin_upload(tx: Transaction, request: UploadRequest) -> None:
    """Record a request before its files are placed. Replaces one of this key that was not done.

    Deletes expired rows.
    """
    tx.connection.execute(delete(upload_keys).where(upload_keys.c.expires_at < tx.now))
    row = {
        "fingerprint": request.fingerprint,
        "inbox": request.inbox,
        "changes": json.dumps(dict(request.changes)),
        "hashes": json.dumps(request.hashes),
        "answer": None,
        "expires_at": _hours_from(tx.now, KEPT_HOURS),
    }
    statement = upsert(upload_keys).values(key=request.key, **row)
    tx.connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=row))


def finish_upload(
    tx: Transaction,
    key: str,
    jobs: Sequence[NewJob],
    *,
    duplicates: Duplicates,
) -> list[AddedJob]:
    """Add the jobs of an upload, and store its answer."""
    added = add_jobs(tx, jobs, duplicates=duplicates)
    answer = [
        {"path": os.fsdecode(new.path), "bytes": new.signature.size, "job_id": job.job_id}
        for new, job in zip(jobs, added, strict=True)
    ]
    hours = OWN_KEPT_HOURS if key.startswith(OWN_KEY) else KEPT_HOURS
    row = {
        "answer": json.dumps(answer),
        "changes": "{}",
        "hashes": "[]",
        "expires_at": _hours_from(tx.now, hours),
    }
    tx.connection.execute(update(upload_keys).where(upload_keys.c.key == key).values(row))
    return added


def _hours_from(now: str, hours: float) -> str:
    return format_utc(datetime.fromisoformat(now) + timedelta(hours=hours))


def forget_upload(tx: Transaction, key: str) -> None:
    """Delete the record of an upload that was refused."""
    tx.connection.execute(
        delete(upload_keys).where(upload_keys.c.key == key, upload_keys.c.answer.is_(None))
    )


def find_upload(connection: Connection, key: str, now: str) -> FinishedUpload | None:
    """Return the upload of this key if its jobs were added and it has not expired."""
    row = connection.execute(
        select(upload_keys.c.fingerprint, upload_keys.c.answer).where(
            upload_keys.c.key == key,
            upload_keys.c.answer.is_not(None),
            upload_keys.c.expires_at >= now,
        )
    ).one_or_none()
    return FinishedUpload(row.fingerprint, json.loads(row.answer)) if row else None


def load_unfinished_uploads(
    connection: Connection, now: str
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the options of files whose upload was interrupted, by inbox and SHA-256."""
    rows = connection.execute(
        select(upload_keys).where(upload_keys.c.answer.is_(None), upload_keys.c.expires_at >= now)
    )
    return {
        (row.inbox, sha256): json.loads(row.changes)
        for row in rows
        for sha256 in json.loads(row.hashes)
    }
