"""The ledger's front door: every question and every change, each carried out by the module of its role."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from speakeasyd.clock import Clock, iso
from speakeasyd.domain.job import Added, Ended, Job, JobId, NewJob, Sighting, Token, Waiting
from speakeasyd.domain.notices import Delivery
from speakeasyd.domain.retry import Waits
from speakeasyd.domain.transcript import Artifact, Chunk, MediaWarning, OwnFile, Transcript
from speakeasyd.events import Event, Hub
from speakeasyd.ledger import (
    claims,
    delivery,
    engine,
    intake,
    notices,
    people,
    publication,
    transitions,
    upkeep,
)
from speakeasyd.ledger.clients import ClientReaders
from speakeasyd.ledger.identity import Duplicates
from speakeasyd.ledger.search import EVERYTHING, Filters, Hit
from speakeasyd.ledger.upkeep import Recovered, Underway
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
        self._readers = ThreadPoolExecutor(engine.READERS, "ledger reader")
        self._connections = engine.reader(path)
        self._clock = clock
        self.clients = ClientReaders(path, threads=4, limit_s=QUERY_S)
        self.searches = ClientReaders(path, threads=2, limit_s=SEARCH_S)
        self.probes = ClientReaders(path, threads=1, limit_s=PROBE_S)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: Hub, boot_id: str = "") -> Self:
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

    async def unknown(self, inbox: str, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Those files that no job is about, by path, size and times."""
        return await self._ask(intake.unknown, inbox, sightings)

    async def add(self, jobs: Sequence[NewJob], *, duplicates: Duplicates = "reuse") -> list[Added]:
        """Give each file a job, or tell which it has. One answer for each, in order; all in one transaction."""
        return await self._writer.run(intake.add, jobs, duplicates=duplicates)

    async def waiting(self, inbox: str, arrivals: Sequence[Waiting]) -> None:
        """Say which arrivals of an inbox wait for long, in place of what was said before."""
        await self._writer.run(intake.waiting, inbox, arrivals)

    # --- dispatcher

    async def claim(self, limit: int, *, model: str | None = None, inboxes: Sequence[str] | None = None) -> list[Job]:
        """Take jobs whose time has come, highest priority and then oldest first; at least one if there is any.

        Only those of `model` and of `inboxes`, if given. May return fewer than there are: ask until none comes.
        """
        return await self._writer.run(claims.claim, limit, model=model, inboxes=inboxes)

    async def next_model(self, *, inboxes: Sequence[str] | None = None) -> str | None:
        """`options.model` of the job that `claim` would take first."""
        return await self._ask(claims.next_model, self._now(), inboxes)

    async def next_available(self) -> str | None:
        """When the next of the jobs that wait for a retry may be taken."""
        return await self._ask(claims.next_available, self._now())

    async def lost(self, claimed: Sequence[tuple[JobId, Token]]) -> frozenset[JobId]:
        """Which of these claims no longer hold."""
        return await self._ask(claims.lost, claimed)

    async def note(
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
        await self._writer.run(claims.note, job_id, token, found)

    async def record(self, done: Sequence[tuple[JobId, Token, Chunk]]) -> frozenset[JobId]:
        """Keep chunks, all in one transaction. Returns the jobs whose claim is lost; theirs are not kept."""
        return await self._writer.run(delivery.record, done)

    async def strike(self, job_id: JobId, token: Token, index: int, start: float, end: float) -> int:
        """Count a worker's death against a chunk. Returns the strikes so far."""
        return await self._writer.run(delivery.strike, job_id, token, chunk=index, start=start, end=end)

    async def transcribed(
        self, job_id: JobId, token: Token, *, audio_seconds: float, warnings: Sequence[MediaWarning] = ()
    ) -> None:
        """All chunks are in."""
        await self._writer.run(delivery.transcribed, job_id, token, audio_seconds=audio_seconds, warnings=warnings)

    async def release(
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
        await self._writer.run(
            claims.release,
            job_id,
            token,
            available_at=available_at,
            error_code=error_code,
            error=error,
            crash=crash,
            counts=counts,
        )

    async def fail(self, job_id: JobId, token: Token, *, code: str, error: str) -> bool:
        """Give the job up. Returns whether it has failed: a retried one has its finished transcript still."""
        return await self._writer.run(claims.fail, job_id, token, code=code, error=error)

    async def postpone(self, model: str, *, available_at: str, code: str, error: str) -> int:
        """Let every pending job that asks for `model` wait until then, and say why. Returns how many there are."""
        held = 0
        hold = partial(claims.postpone, available_at=available_at, code=code, error=error, limit=POSTPONED)
        while count := await self._writer.run(hold, model):
            held += count
        return held

    # --- publisher

    async def transcript(self, job_id: JobId) -> Transcript:
        """What people see of a job: its finished transcript, else what is transcribed so far.

        Raises LedgerError for an unknown job.
        """
        return await self._ask(publication.transcript, job_id)

    async def transcript_to_publish(self, job_id: JobId) -> Transcript:
        """What the attempt under way has transcribed. Raises LedgerError for an unknown job."""
        return await self._ask(publication.transcript_to_publish, job_id)

    async def names_taken(self, outbox: str, paths: Sequence[str], *, job_id: JobId) -> set[str]:
        """Those of these paths that belong to another job, letter case and Unicode form aside."""
        return await self._ask(publication.names_taken, outbox, paths, job_id=job_id)

    async def own_files(self, job_id: JobId) -> list[OwnFile]:
        """What the job and those of earlier versions of its source have written, or were about to write."""
        return await self._ask(publication.own_files, job_id)

    async def ended(self, inbox: str, sightings: Sequence[Sighting]) -> list[Ended]:
        """Of these files, those whose job has ended for good: nothing more will be read from them."""
        return await self._ask(publication.ended, inbox, sightings)

    async def intend(self, job_id: JobId, token: Token, artifacts: Sequence[Artifact]) -> set[str]:
        """Take the artifacts' names before any file is written.

        Returns those that another job took in the meantime: then none was taken, and other names must be chosen.
        """
        return await self._writer.run(publication.intend, job_id, token, artifacts)

    async def complete(
        self, job_id: JobId, token: Token, artifacts: Sequence[Artifact], *, removed: Sequence[OwnFile] = ()
    ) -> None:
        """The artifacts are durable in the outbox, and these own files are no longer there.

        Jobs of earlier versions of the same file are superseded from now on.
        """
        await self._writer.run(publication.complete, job_id, token, artifacts, removed=removed)

    # --- people

    async def retry(self, *, ids: Sequence[int] = (), where: str | None = None) -> list[JobId]:
        """Begin ended jobs again: these, and those for which `where` holds, a condition over `job_status`.

        Returns those that will be: none that is superseded by a later job of the same path. Raises QueryError.
        """
        wanted = [*ids, *(await self._matching(where) if where else ())]
        return [job_id for part in transitions.slices(wanted) for job_id in await self._writer.run(people.retry, part)]

    async def cancel(self, ids: Sequence[int]) -> list[JobId]:
        """Stop jobs that have not ended. Returns those that were stopped."""
        return [job_id for part in transitions.slices(ids) for job_id in await self._writer.run(people.cancel, part)]

    # --- recovery and upkeep

    async def recover(self) -> Recovered:
        """Give every job that an earlier daemon had claimed back to pending, its chunks kept."""
        return await self._writer.run(upkeep.recover)

    async def shorten_waits(self, job_waits: Waits, *, delivery_wait_s: float, final_wait_s: float) -> None:
        """Leave no wait that is longer than it can have been meant: the clock may have been set meanwhile."""
        await self._writer.run(
            upkeep.shorten_waits, job_waits, delivery_wait_s=delivery_wait_s, final_wait_s=final_wait_s
        )

    async def shift_waits(self, seconds: float) -> None:
        """The wall clock was set by so many seconds: what waits for a time still waits as long as it had to."""
        await self._writer.run(upkeep.shift_waits, seconds)

    async def underway(self) -> list[Underway]:
        """Every job that is claimed, with the progress it has made."""
        return await self._ask(upkeep.underway)

    async def chunks_of_unfinished(self, job_ids: Sequence[JobId]) -> dict[JobId, int]:
        """How many chunks are kept of each of these jobs that has not ended."""
        return await self._ask(upkeep.chunks_of_unfinished, job_ids)

    async def incident(
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
        return await self._writer.run(
            upkeep.incident,
            kind=kind,
            phase=phase,
            device=device,
            worker=worker,
            error=error,
            action=action,
            job_id=job_id,
            chunk=chunk,
        )

    async def resolve(self, incident_id: int, *, cost_seconds: float) -> None:
        """The incident is over, after so many seconds."""
        await self._writer.run(upkeep.resolve, incident_id, cost_seconds=cost_seconds)

    async def state(self, key: str) -> Any:
        """What was said of the daemon under this key; None if nothing was."""
        return await self._ask(upkeep.get_state, key)

    async def set_state(self, key: str, value: object) -> None:
        """Say something about the daemon itself, as JSON, in the table `state`."""
        await self._writer.run(upkeep.set_state, key, value)

    async def try_write(self) -> None:
        """Take the write lock for a moment. Raises LedgerUnwritable while another program holds it."""
        await self._writer.run(lambda _transaction: None)

    async def ask(self, wish: str) -> None:
        """Leave a wish for the daemon, such as "reload": it hears it as an event within a second."""
        await self._writer.run(upkeep.ask, wish)

    async def foreign_changed(self) -> bool:
        """Whether another program has written since last asked. Its events are published here as well."""
        return await self._writer.foreign_changed()

    async def prune(self, *, jobs_before: str | None, events_before: str) -> int:
        """Remove jobs that ended and events that happened before these times. Returns the number of jobs removed."""
        removed = 0
        while jobs_before and (some := await self._writer.run(upkeep.forget_jobs, jobs_before)):
            removed += some
        await self._writer.run(upkeep.forget_events, events_before)
        return removed

    # --- telling others

    async def notice_mark(self) -> tuple[int, str]:
        """Up to which event, and until when about batches, others have been told; the first time, from now on."""
        said = await self._ask(notices.mark)
        return (said["seq"], said["until"]) if said else (await self._ask(notices.newest), self._now())

    async def newest_event(self) -> int:
        return await self._ask(notices.newest)

    async def done_batches(self, *, since: str, until: str) -> list[dict[str, object]]:
        """Batches whose last job ended in that time, nothing of which is left to do."""
        return await self._ask(notices.done_batches, since=since, until=until)

    async def announce(self, batches: Sequence[Mapping[str, object]], *, seq: int, until: str) -> None:
        """Tell `batch.completed` of each, once."""
        await self._writer.run(notices.announce, batches, seq=seq, until=until)

    async def news(self, kinds: Iterable[str], *, after: int, upto: int) -> list[Event]:
        """Events of these kinds, in order, with what is known of their jobs. Some of them: ask until none comes."""
        return await self._ask(notices.news, kinds, after=after, upto=upto)

    async def enlist(self, wanted: Sequence[tuple[str, Event]], *, seq: int, until: str) -> None:
        """Each target is to be told of its event; all before `seq` has been seen to."""
        await self._writer.run(notices.enlist, wanted, seq=seq, until=until)

    async def next_delivery(self, target: str) -> Delivery | None:
        """The one of this target whose time comes first."""
        return await self._ask(notices.next_delivery, target)

    async def delivered(self, delivery: Delivery) -> None:
        await self._writer.run(notices.delivered, delivery.id)

    async def undelivered(self, delivery: Delivery, target: str, *, error: str, again_at: str | None) -> None:
        """An attempt failed: it is to be tried again at that time, or, with None, never."""
        await self._writer.run(notices.undelivered, delivery, target, error=error, again_at=again_at)

    # --- reading

    async def rows(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[dict[str, object]]:
        """The rows of a query of a person's own. Raises QueryError when it is wrong or wants more than to read."""
        return await self.clients.rows(sql, params)

    async def search(self, words: str, *, limit: int = 20, filters: Filters = EVERYTHING) -> list[Hit]:
        """Where these words are said, best first: see `ledger.search`."""
        return await self.searches.search(words, limit=limit, filters=filters)

    async def _matching(self, condition: str) -> list[int]:
        """Evaluated where nothing can be written, whatever the condition says."""
        query = f"SELECT job_id FROM job_status WHERE (\n{condition}\n)"  # noqa: S608 - `rows` can only read
        return [int(str(row["job_id"])) for row in await self.rows(query)]

    async def _ask(self, question: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._answer, lambda seen: question(seen, *args, **kwargs))

    def _answer(self, question: Callable[[Connection], T]) -> T:
        """In a thread of the readers'."""
        try:
            with self._connections.connect() as connection:
                return question(connection)
        except Exception as error:
            raise engine.explained(error) from error

    def _now(self) -> str:
        return iso(self._clock.utc())
