"""The ledger as the rest of the program sees it: verbs, no SQL."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine

from speakeasyd.clock import Clock
from speakeasyd.domain.job import Added, Job, JobId, NewJob, Sighting, Token, Waiting
from speakeasyd.domain.transcript import Artifact, Transcript
from speakeasyd.errors import LedgerError, SpeakeasyError
from speakeasyd.events import Hub
from speakeasyd.ledger import claims, engine, intake, people, transcripts, upkeep
from speakeasyd.ledger.transcripts import Done
from speakeasyd.ledger.writer import Transaction, Writer


class Ledger:
    """Every change is one transaction, durable when the call returns; its events reach the hub after that.

    Changes to a claimed job raise NotYours once the claim is lost. LedgerUnwritable when the disk refuses.
    """

    def __init__(self, *, writer: Writer, writing: AsyncEngine, reading: AsyncEngine) -> None:
        self._writer = writer
        self._writing = writing
        self._reading = reading
        self._seen_version: int | None = None

    @classmethod
    async def open(
        cls, path: Path, *, clock: Clock, hub: Hub | None = None, boot_id: str = "", guest: bool = False
    ) -> "Ledger":
        """Open a migrated ledger. `guest`: briefly, beside the daemon that owns it."""
        if not path.exists():
            raise LedgerError(
                f"there is no ledger at {path}", hint="Start speakeasyd once, or name its --state folder."
            )
        writing = engine.writer(path, guest=guest)
        writer = Writer(writing, clock=clock, hub=hub or Hub(), boot_id=boot_id or uuid.uuid4().hex)
        return cls(writer=writer, writing=writing, reading=engine.reader(path))

    async def close(self) -> None:
        await self._writer.close()
        await self._reading.dispose()

    # --- intake

    async def unknown(self, inbox: str, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Those that no job has, by path and signature."""
        query = text(intake.KNOWN)
        async with self._reading.connect() as connection:
            return [
                sighting
                for sighting in sightings
                if (
                    await connection.execute(
                        query, {"inbox": inbox, "path": sighting.path, **intake.signature(sighting.signature)}
                    )
                ).first()
                is None
            ]

    async def add(self, jobs: Sequence[NewJob], *, duplicates: str = "reuse") -> list[Added]:
        """Turn files into jobs: pending, or skipped as the same bytes again, or failed at the door."""
        return await self._writer.run(intake.add, jobs, duplicates=duplicates)

    async def waiting(self, inbox: str, arrivals: Sequence[Waiting]) -> None:
        """Replace what is known of an inbox's arrivals that do not settle."""
        await self._writer.run(intake.waiting, inbox, arrivals)

    # --- claims

    async def next_model(self, *, inboxes: Sequence[str]) -> str | None:
        """The model that the next job asks for; None when there is no job to claim now."""
        async with self._reading.connect() as connection:
            now = self._writer.now()
            row = await connection.execute(text(claims.NEXT_MODEL), {"now": now, "inboxes": json.dumps(list(inboxes))})
            model: str | None = row.scalar()
            return model

    async def claim(self, limit: int, *, model: str, inboxes: Sequence[str]) -> list[Job]:
        """Claim jobs for a model, by priority, then by age. A job whose twin is in work waits for its transcript."""
        return await self._writer.run(claims.claim, limit, model=model, inboxes=json.dumps(list(inboxes)))

    async def note(self, job_id: JobId, token: Token, **known: Any) -> None:
        """Set language, language_probability, model, device or container_seconds of a job in work."""
        await self._writer.run(claims.note, job_id, token, **known)

    async def record(self, done: Sequence[Done]) -> frozenset[JobId]:
        """Commit chunks; returns the jobs whose claim is lost."""
        return await self._writer.run(transcripts.record, done)

    async def strike(self, job_id: JobId, token: Token, index: int, start: float, end: float) -> int:
        """Count a worker's death against a chunk; returns its strikes so far."""
        return await self._writer.run(claims.strike, job_id, token, index, start, end)

    async def transcribed(self, job_id: JobId, token: Token, *, audio_seconds: float, warning: str | None) -> None:
        """Every chunk is committed; only the artifacts are missing."""
        await self._writer.run(claims.transcribed, job_id, token, audio_seconds=audio_seconds, warning=warning)

    async def release(self, job_id: JobId, token: Token, **how: Any) -> None:
        """Back to pending with its chunks kept: available_at, error_code, error, crash, counts (see claims.release)."""
        await self._writer.run(claims.release, job_id, token, **how)

    async def fail(self, job_id: JobId, token: Token, *, code: str, error: str) -> None:
        await self._writer.run(claims.fail, job_id, token, code=code, error=error)

    async def lost(self, held: Sequence[tuple[JobId, Token]]) -> frozenset[JobId]:
        """Which of these claims are no longer ours."""
        query = text(f"SELECT 1 FROM jobs WHERE {claims.MINE}")  # noqa: S608 - no input
        async with self._reading.connect() as connection:
            return frozenset(
                [
                    job_id
                    for job_id, token in held
                    if (await connection.execute(query, {"id": job_id, "token": token})).first() is None
                ]
            )

    # --- transcripts

    async def transcript(self, job_id: JobId) -> Transcript:
        async with self._reading.connect() as connection:
            return await transcripts.transcript(connection, job_id)

    async def names_taken(self, outbox: str, paths: Sequence[str], *, job_id: JobId) -> frozenset[str]:
        """Of these names below an outbox, those that belong to another job."""
        async with self._reading.connect() as connection:
            return await transcripts.names_taken(connection, outbox, paths, job_id=job_id)

    async def intend(self, job_id: JobId, token: Token, artifacts: Sequence[Artifact]) -> None:
        """Note names and hashes before any file is written."""
        await self._writer.run(transcripts.intend, job_id, token, artifacts)

    async def complete(self, job_id: JobId, token: Token) -> None:
        """The intended artifacts are durable: the job is completed."""
        await self._writer.run(transcripts.complete, job_id, token)

    # --- people

    async def retry(self, *, ids: Sequence[int] = (), where: str | None = None) -> list[int]:
        """Start ended jobs over, by id or by an SQL condition over job_status. Returns the ids that changed."""
        chosen = list(ids)
        if where is not None:
            chosen += [
                int(str(row["job_id"])) for row in await self.rows(f"SELECT job_id FROM job_status WHERE {where}")
            ]  # noqa: S608 - read-only
        return await self._writer.run(people.retry, chosen)

    async def cancel(self, ids: Sequence[int]) -> list[int]:
        return await self._writer.run(people.cancel, ids)

    # --- upkeep

    async def recover(self) -> Sequence[int]:
        """Take back at once what an earlier life of the daemon had claimed. Returns the jobs."""
        return await self._writer.run(claims.recover)

    async def incident(self, *, kind: str, error: str, action: str, **where: Any) -> int:
        """Open an incident; `where`: phase, device, worker, job_id, chunk."""
        nowhere = dict.fromkeys(("phase", "device", "worker", "job_id", "chunk"))
        return await self._writer.run(upkeep.incident, **{**nowhere, **where}, kind=kind, error=error, action=action)

    async def resolve(self, incident_id: int, *, cost_seconds: float) -> None:
        await self._writer.run(upkeep.resolve, incident_id, cost_seconds=cost_seconds)

    async def set_state(self, key: str, value: object) -> None:
        await self._writer.run(upkeep.set_state, key, value)

    async def prune(self, *, jobs_before: str | None, events_before: str) -> int:
        return await self._writer.run(upkeep.prune, jobs_before=jobs_before, events_before=events_before)

    async def foreign_changed(self) -> bool:
        """Whether another process has written since this was last asked. Cheap: it reads shared memory."""
        version = await self._writer.run(_data_version)
        changed = self._seen_version is not None and version != self._seen_version
        self._seen_version = version
        return changed

    # --- reading

    async def rows(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Rows of any query, on a connection that cannot write. Raises SpeakeasyError for wrong SQL."""
        async with self._reading.connect() as connection:
            try:
                found = await connection.execute(text(sql), parameters)
            except DatabaseError as error:
                raise SpeakeasyError(f"the ledger refused the query: {error.orig}") from error
            return [dict(row) for row in found.mappings()]


async def _data_version(tx: Transaction) -> int:
    version: int = (await tx.execute("PRAGMA data_version")).scalar_one()
    return version
