"""Helpers for tests of the ledger: empty ledgers, and jobs, chunks and artifacts to store in them."""

import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from speakeasyd.clock import Clock
from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.job import Job, NewJob, Signature
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Artifact, Chunk, Segment, Transcript
from speakeasyd.events import EventHub
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import JobArtifacts, complete_jobs, load_publications
from speakeasyd.ledger.readonly import LEDGER, query_readonly
from speakeasyd.ledger.results import Transcribed, store_results
from speakeasyd.ledger.rows import Parameters, Row
from speakeasyd.testing import ManualClock

_INSERT_JOBS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :jobs)
    INSERT INTO jobs (batch, inbox, path_raw, path, size, mtime_ns, inode, sha256, work_key, options, requested_model,
                      status, created_at, available_at, finished_at, audio_seconds)
    SELECT 'batch ' || (i % 20), 'inbox', CAST('file ' || i AS BLOB), 'file ' || i, i, i, i, 'sha ' || i, 'work ' || i,
           '{}', 'auto', iif(i % 2, 'pending', 'completed'), '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z',
           iif(i % 2, NULL, '2026-01-02T00:00:00.000Z'), iif(i % 2, NULL, 10.0)
    FROM n
"""


@cache
def _build_empty_ledger() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        migrate_ledger(path)
        return path.read_bytes()


def create_ledger(path: Path) -> None:
    """Create an empty ledger. The migrations run once for all tests."""
    path.write_bytes(_build_empty_ledger())


def insert_jobs(connection: sqlite3.Connection, jobs: int) -> None:
    """Insert jobs in 20 batches, half of them pending, half completed."""
    batches = [(f"batch {number}", "2026") for number in range(20)]
    connection.executemany("INSERT INTO batches (name, created_at) VALUES (?, ?)", batches)
    connection.execute(_INSERT_JOBS, {"jobs": jobs})
    connection.commit()


@asynccontextmanager
async def open_ledger(
    path: Path, *, clock: Clock | None = None, hub: EventHub | None = None, boot_id: str = "boot"
) -> AsyncIterator[Ledger]:
    """Open a ledger as the daemon does; with `boot_id=""`, as a command beside the daemon does.

    It is created if it does not exist.
    """
    if not path.exists():
        create_ledger(path)
    ledger = await Ledger.open(
        path, clock=clock or ManualClock(), hub=hub or EventHub(), boot_id=boot_id
    )
    try:
        yield ledger
    finally:
        await ledger.close()


def build_job(
    path: bytes | str, content: str = "", *, inbox: str = "inbox", **options: Any
) -> NewJob:
    """Return a job for a file with this content; without it, the content is unique to the path."""
    raw = path.encode() if isinstance(path, str) else path
    digest = hashlib.sha256(content.encode() or raw).hexdigest()
    return NewJob(
        inbox=inbox,
        path=raw,
        signature=Signature(size=1000, mtime_ns=int(digest[:8], 16), inode=1),
        sha256=digest,
        options=Options(**options),
        preset=None,
        batch="talks",
    )


def with_newer_time(file: NewJob) -> NewJob:
    """Return a job for the same bytes with a newer modification time."""
    return replace(file, signature=replace(file.signature, mtime_ns=file.signature.mtime_ns + 1))


def build_chunk(index: int, *texts: str, channel: int | None = None, **more: Any) -> Chunk:
    """Return the chunk of ten seconds at `index`, with one segment for each text."""
    start = index * 10.0
    segments = tuple(
        Segment(
            start + i,
            start + i + 1,
            text,
            avg_logprob=-0.3,
            compression_ratio=1.1,
            no_speech_prob=0.0,
            channel=channel,
        )
        for i, text in enumerate(texts)
    )
    return Chunk(
        index=index, start=start, end=start + 10, segments=segments, channel=channel, **more
    )


def build_artifact(path: str, outbox: str = "/outbox") -> Artifact:
    return Artifact(format="txt", outbox=outbox, path=path, sha256="0" * 64, bytes=3)


async def add_claimed_jobs(ledger: Ledger, *files: NewJob) -> list[Job]:
    """Add the jobs and claim them."""
    await ledger.write(add_jobs, files)
    return await ledger.write(claim_jobs, len(files))


async def finish_job(ledger: Ledger, job: Job, *texts: str, language: str = "en") -> None:
    """Complete a claimed job with one chunk for each text."""
    await ledger.write(
        store_results,
        [
            (
                job.id,
                job.token,
                JobNoted(language=language, model="tiny.en", device="cpu", container_seconds=60.0),
            )
        ],
    )
    await ledger.write(
        store_results,
        [(job.id, job.token, build_chunk(i, text, compute_s=0.5)) for i, text in enumerate(texts)],
    )
    await ledger.write(store_results, [(job.id, job.token, Transcribed(audio_seconds=60.0))])
    await ledger.write(
        complete_jobs, [JobArtifacts(job.id, job.token, [build_artifact(f"{job.id}.txt")])]
    )


def query_ledger(state: Path, sql: str, parameters: Parameters = ()) -> list[Row]:
    """Return the rows of a query to the ledger in this state folder."""
    return query_readonly(state / LEDGER, sql, parameters)


async def load_work(ledger: Ledger, job: Job) -> Transcript:
    """Return the transcript of the current attempt."""
    [(transcript, _)] = await ledger.read(load_publications, [job.id])
    return transcript


async def read_status(ledger: Ledger, job_id: int) -> dict[str, Any]:
    """Return the row of `job_status`."""
    [row] = query_readonly(ledger.path, "SELECT * FROM job_status WHERE job_id = ?", [job_id])
    return row
