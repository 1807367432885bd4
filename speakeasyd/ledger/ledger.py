"""The ledger's front door: every question and every change, each carried out by the module of its role."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.job import (
    AddedJob,
    EndedJob,
    Job,
    JobId,
    NewJob,
    Sighting,
    Token,
    WaitingFile,
)
from speakeasyd.domain.notifications import Delivery
from speakeasyd.domain.retry import BackoffSettings
from speakeasyd.domain.transcript import Artifact, Chunk, MediaWarning, OwnFile, Transcript
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger import (
    claims,
    connections,
    deliveries,
    maintenance,
    new_jobs,
    publication,
    results,
    transitions,
    user_changes,
)
from speakeasyd.ledger.clients import ClientReaders
from speakeasyd.ledger.duplicates import Duplicates
from speakeasyd.ledger.maintenance import RecoveredClaims, Underway
from speakeasyd.ledger.search import EVERYTHING, SearchFilters, SearchHit
from speakeasyd.ledger.writer import Writer

POSTPONED = 5000  # jobs in one transaction: others need not wait long
QUERY_S = 30.0  # seconds that a query of a person's own may take
SEARCH_S = 5.0  # seconds that a search may take
PROBE_S = 5.0  # seconds that a probe waits for the ledger

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """Changes go through one writer and are durable when their call returns; questions never wait for them.

    The daemon opens it with its `boot_id`; commands beside it open it without one, and neither claim nor recover.
    Any call may raise LedgerUnwritable or LedgerError; those with a token raise NotYours when the claim is lost.
    """

    def __init__(self, *, path: Path, writer: Writer, clock: Clock) -> None:
        self._path = path
        self._writer = writer
        self._readers = ThreadPoolExecutor(connections.READERS, "ledger reader")
        self._connections = connections.create_read_engine(path)
        self._clock = clock
        self.clients = ClientReaders(path, threads=4, limit_s=QUERY_S)
        self.searches = ClientReaders(path, threads=2, limit_s=SEARCH_S)
        self.probes = ClientReaders(path, threads=1, limit_s=PROBE_S)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: EventHub, boot_id: str = "") -> Self:
        """Open a ledger that `migrate` has brought up to date. Raises LedgerError when there is none."""
        writer = await Writer.open(path, clock=clock, hub=hub, boot_id=boot_id)
        return cls(path=path, writer=writer, clock=clock)

    async def close(self) -> None:
        """Carry out the changes that wait, then let go of the file. Idempotent."""
        for readers in (self.clients, self.searches, self.probes):
            await readers.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._connections.dispose()
        await self._writer.close()

    # --- intake

    async def find_unknown_files(self, inbox: str, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Those files that no job is about, by path, size and times."""
        return await self._read(new_jobs.find_unknown_files, inbox, sightings)

    async def add_jobs(
        self, jobs: Sequence[NewJob], *, duplicates: Duplicates = "reuse"
    ) -> list[AddedJob]:
        """Give each file a job, or tell which it has. One answer for each, in order; all in one transaction."""
        return await self._writer.run_operation(new_jobs.add_jobs, jobs, duplicates=duplicates)

    async def store_waiting_files(self, inbox: str, arrivals: Sequence[WaitingFile]) -> None:
        """Say which arrivals of an inbox wait for long, in place of what was said before."""
        await self._writer.run_operation(new_jobs.store_waiting_files, inbox, arrivals)

    # --- dispatcher

    async def claim_jobs(
        self, limit: int, *, model: str | None = None, inboxes: Sequence[str] | None = None
    ) -> list[Job]:
        """Take jobs whose time has come, highest priority and then oldest first; at least one if there is any.

        Only those of `model` and of `inboxes`, if given. May return fewer than there are: ask until none comes.
        """
        return await self._writer.run_operation(
            claims.claim_jobs, limit, model=model, inboxes=inboxes
        )

    async def find_next_model(self, *, inboxes: Sequence[str] | None = None) -> str | None:
        """`options.model` of the job that `claim_jobs` would take first."""
        return await self._read(claims.find_next_model, self._now(), inboxes)

    async def find_next_retry_time(self) -> str | None:
        """When the next of the jobs that wait for a retry may be taken."""
        return await self._read(claims.find_next_retry_time, self._now())

    async def find_lost_claims(self, claimed: Sequence[tuple[JobId, Token]]) -> frozenset[JobId]:
        """Which of these claims no longer hold."""
        return await self._read(claims.find_lost_claims, claimed)

    async def update_claimed_job(
        self,
        job_id: JobId,
        token: Token,
        *,
        language: str | None = None,
        language_probability: float | None = None,
        model: str | None = None,
        device: str | None = None,
        container_seconds: float | None = None,
        progress: float | None = None,
    ) -> None:
        """Keep what a worker has found out so far; None leaves a value as it was."""
        found: dict[str, object] = {
            "language": language,
            "language_probability": language_probability,
            "model": model,
            "device": device,
            "container_seconds": container_seconds,
            "progress": progress,
        }
        await self._writer.run_operation(claims.update_claimed_job, job_id, token, found)

    async def store_chunks(self, done: Sequence[tuple[JobId, Token, Chunk]]) -> frozenset[JobId]:
        """Keep chunks, all in one transaction. Returns the jobs whose claim is lost; theirs are not kept."""
        return await self._writer.run_operation(results.store_chunks, done)

    async def add_strike(
        self, job_id: JobId, token: Token, index: int, start: float, end: float
    ) -> int:
        """Count a worker's death against a chunk. Returns the strikes so far."""
        return await self._writer.run_operation(
            results.add_strike, job_id, token, chunk=index, start=start, end=end
        )

    async def mark_transcribed(
        self,
        job_id: JobId,
        token: Token,
        *,
        audio_seconds: float,
        warnings: Sequence[MediaWarning] = (),
    ) -> None:
        """All chunks are in."""
        await self._writer.run_operation(
            results.mark_transcribed, job_id, token, audio_seconds=audio_seconds, warnings=warnings
        )

    async def release_claim(
        self,
        job_id: JobId,
        token: Token,
        *,
        available_at: str | None,
        error_code: str | None = None,
        error: str | None = None,
        crash: bool = False,
        counts: bool = True,
    ) -> None:
        """Back to pending with its chunks kept: now, or not before `available_at`.

        `crash`: a worker died on it. `counts=False`: the attempt is given back, the job had no part in it.
        """
        await self._writer.run_operation(
            claims.release_claim,
            job_id,
            token,
            available_at=available_at,
            error_code=error_code,
            error=error,
            crash=crash,
            counts=counts,
        )

    async def fail_job(self, job_id: JobId, token: Token, *, code: str, error: str) -> bool:
        """Give the job up. Returns whether it has failed: a retried one has its finished transcript still."""
        return await self._writer.run_operation(
            claims.fail_job, job_id, token, code=code, error=error
        )

    async def postpone_jobs(self, model: str, *, available_at: str, code: str, error: str) -> int:
        """Let every pending job that asks for `model` wait until then, and say why. Returns how many there are."""
        held = 0
        hold = partial(
            claims.postpone_jobs, available_at=available_at, code=code, error=error, limit=POSTPONED
        )
        while count := await self._writer.run_operation(hold, model):
            held += count
        return held

    # --- publisher

    async def load_transcript(self, job_id: JobId) -> Transcript:
        """What people see of a job: its finished transcript, else what is transcribed so far.

        Raises LedgerError for an unknown job.
        """
        return await self._read(publication.load_transcript, job_id)

    async def transcript_to_publish(self, job_id: JobId) -> Transcript:
        """What the attempt under way has transcribed. Raises LedgerError for an unknown job."""
        return await self._read(publication.transcript_to_publish, job_id)

    async def find_taken_names(
        self, outbox: str, paths: Sequence[str], *, job_id: JobId
    ) -> set[str]:
        """Those of these paths that belong to another job, letter case and Unicode form aside."""
        return await self._read(publication.find_taken_names, outbox, paths, job_id=job_id)

    async def own_files(self, job_id: JobId) -> list[OwnFile]:
        """What the job and those of earlier versions of its source have written, or were about to write."""
        return await self._read(publication.own_files, job_id)

    async def find_ended_jobs(self, inbox: str, sightings: Sequence[Sighting]) -> list[EndedJob]:
        """Of these files, those whose job has ended for good: nothing more will be read from them."""
        return await self._read(publication.find_ended_jobs, inbox, sightings)

    async def reserve_artifacts(
        self, job_id: JobId, token: Token, artifacts: Sequence[Artifact]
    ) -> set[str]:
        """Take the artifacts' names before any file is written.

        Returns those that another job took in the meantime: then none was taken, and other names must be chosen.
        """
        return await self._writer.run_operation(
            publication.reserve_artifacts, job_id, token, artifacts
        )

    async def complete_job(
        self,
        job_id: JobId,
        token: Token,
        artifacts: Sequence[Artifact],
        *,
        removed: Sequence[OwnFile] = (),
    ) -> None:
        """The artifacts are durable in the outbox, and these own files are no longer there.

        Jobs of earlier versions of the same file are superseded from now on.
        """
        await self._writer.run_operation(
            publication.complete_job, job_id, token, artifacts, removed=removed
        )

    # --- people

    async def retry_jobs(self, *, ids: Sequence[int] = (), where: str | None = None) -> list[JobId]:
        """Begin ended jobs again: these, and those for which `where` holds, a condition over `job_status`.

        Returns those that will be: none that is superseded by a later job of the same path. Raises QueryError.
        """
        wanted = [*ids, *(await self._find_matching_jobs(where) if where else ())]
        return [
            job_id
            for part in transitions.split_into_slices(wanted)
            for job_id in await self._writer.run_operation(user_changes.retry_jobs, part)
        ]

    async def cancel_jobs(self, ids: Sequence[int]) -> list[JobId]:
        """Stop jobs that have not ended. Returns those that were stopped."""
        return [
            job_id
            for part in transitions.split_into_slices(ids)
            for job_id in await self._writer.run_operation(user_changes.cancel_jobs, part)
        ]

    # --- recovery and upkeep

    async def release_stale_claims(self) -> RecoveredClaims:
        """Give every job that an earlier daemon had claimed back to pending, its chunks kept."""
        return await self._writer.run_operation(maintenance.release_stale_claims)

    async def shorten_waits(
        self, job_waits: BackoffSettings, *, delivery_wait_s: float, final_wait_s: float
    ) -> None:
        """Leave no wait that is longer than it can have been meant: the clock may have been set meanwhile."""
        await self._writer.run_operation(
            maintenance.shorten_waits,
            job_waits,
            delivery_wait_s=delivery_wait_s,
            final_wait_s=final_wait_s,
        )

    async def shift_waits(self, seconds: float) -> None:
        """The wall clock was set by so many seconds: what waits for a time still waits as long as it had to."""
        await self._writer.run_operation(maintenance.shift_waits, seconds)

    async def underway(self) -> list[Underway]:
        """Every job that is claimed, with the progress it has made."""
        return await self._read(maintenance.underway)

    async def chunks_of_unfinished(self, job_ids: Sequence[JobId]) -> dict[JobId, int]:
        """How many chunks are kept of each of these jobs that has not ended."""
        return await self._read(maintenance.chunks_of_unfinished, job_ids)

    async def open_incident(
        self,
        *,
        kind: str,
        phase: str,
        device: str | None,
        worker: str | None,
        error: str,
        action: str,
        job_id: JobId | None = None,
        chunk: int | None = None,
    ) -> int:
        """Open an incident: what happened and what is done about it. Returns its id."""
        return await self._writer.run_operation(
            maintenance.open_incident,
            kind=kind,
            phase=phase,
            device=device,
            worker=worker,
            error=error,
            action=action,
            job_id=job_id,
            chunk=chunk,
        )

    async def close_incident(self, incident_id: int, *, cost_seconds: float) -> None:
        """The incident is over, after so many seconds."""
        await self._writer.run_operation(
            maintenance.close_incident, incident_id, cost_seconds=cost_seconds
        )

    async def load_state(self, key: str) -> Any:
        """What was said of the daemon under this key; None if nothing was."""
        return await self._read(maintenance.load_state, key)

    async def store_state(self, key: str, value: object) -> None:
        """Say something about the daemon itself, as JSON, in the table `load_state`."""
        await self._writer.run_operation(maintenance.store_state, key, value)

    async def try_write(self) -> None:
        """Take the write lock for a moment. Raises LedgerUnwritable while another program holds it."""
        await self._writer.run_operation(lambda _transaction: None)

    async def send_request(self, wish: str) -> None:
        """Leave a wish for the daemon, such as "reload": it hears it as an event within a second."""
        await self._writer.run_operation(maintenance.send_request, wish)

    async def detect_foreign_commit(self) -> bool:
        """Whether another program has written since last asked. Its events are published here as well."""
        return await self._writer.detect_foreign_commit()

    async def prune_history(self, *, jobs_before: str | None, events_before: str) -> int:
        """Remove jobs that ended and events that happened before these times. Returns the number of jobs removed."""
        removed = 0
        while jobs_before and (
            some := await self._writer.run_operation(maintenance.delete_old_jobs, jobs_before)
        ):
            removed += some
        await self._writer.run_operation(maintenance.delete_old_events, events_before)
        return removed

    # --- telling others

    async def load_notification_cursor(self) -> tuple[int, str]:
        """Up to which event, and until when about batches, others have been told; the first time, from now on."""
        said = await self._read(deliveries.load_cursor)
        return (
            (said["seq"], said["until"])
            if said
            else (await self._read(deliveries.find_newest_seq), self._now())
        )

    async def find_newest_event(self) -> int:
        return await self._read(deliveries.find_newest_seq)

    async def find_finished_batches(self, *, since: str, until: str) -> list[dict[str, object]]:
        """Batches whose last job ended in that time, nothing of which is left to do."""
        return await self._read(deliveries.find_finished_batches, since=since, until=until)

    async def record_finished_batches(
        self, batches: Sequence[Mapping[str, object]], *, seq: int, until: str
    ) -> None:
        """Tell `batch.completed` of each, once."""
        await self._writer.run_operation(
            deliveries.record_finished_batches, batches, seq=seq, until=until
        )

    async def load_events_with_jobs(
        self, kinds: Iterable[str], *, after: int, upto: int
    ) -> list[Event]:
        """Events of these kinds, in order, with what is known of their jobs. Some of them: ask until none comes."""
        return await self._read(deliveries.load_events_with_jobs, kinds, after=after, upto=upto)

    async def enqueue_deliveries(
        self, wanted: Sequence[tuple[str, Event]], *, seq: int, until: str
    ) -> None:
        """Each target is to be told of its event; all before `seq` has been seen to."""
        await self._writer.run_operation(
            deliveries.enqueue_deliveries, wanted, seq=seq, until=until
        )

    async def find_next_delivery(self, target: str) -> Delivery | None:
        """The one of this target whose time comes first."""
        return await self._read(deliveries.find_next_delivery, target)

    async def mark_delivered(self, delivery: Delivery) -> None:
        await self._writer.run_operation(deliveries.mark_delivered, delivery.id)

    async def mark_delivery_failed(
        self, delivery: Delivery, target: str, *, error: str, again_at: str | None
    ) -> None:
        """An attempt failed: it is to be tried again at that time, or, with None, never."""
        await self._writer.run_operation(
            deliveries.mark_delivery_failed, delivery, target, error=error, again_at=again_at
        )

    # --- reading

    async def query_rows(
        self, sql: str, params: Mapping[str, object] | Sequence[object] = ()
    ) -> list[dict[str, object]]:
        """The rows of a query of a person's own. Raises QueryError when it is wrong or wants more than to read."""
        return await self.clients.query_rows(sql, params)

    async def search_text(
        self, words: str, *, limit: int = 20, filters: SearchFilters = EVERYTHING
    ) -> list[SearchHit]:
        """Where these words are said, best first: see `ledger.search_text`."""
        return await self.searches.search_text(words, limit=limit, filters=filters)

    async def _find_matching_jobs(self, condition: str) -> list[int]:
        """Evaluated where nothing can be written, whatever the condition says."""
        query = f"SELECT job_id FROM job_status WHERE (\n{condition}\n)"  # noqa: S608 - `query_rows` can only read
        return [int(str(row["job_id"])) for row in await self.query_rows(query)]

    async def _read(
        self,
        question: Callable[Concatenate[Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._readers, self._read_in_thread, lambda seen: question(seen, *args, **kwargs)
        )

    def _read_in_thread(self, question: Callable[[Connection], T]) -> T:
        """In a thread of the readers'."""
        try:
            with self._connections.connect() as connection:
                return question(connection)
        except Exception as error:
            raise connections.translate_error(error) from error

    def _now(self) -> str:
        return format_utc(self._clock.utc())
