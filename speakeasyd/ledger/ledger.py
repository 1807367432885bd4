"""The interface of the ledger: every query and every change; the other modules carry them out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.diarization import Speaker
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import BatchCompleted, DaemonRequest, JobNoted
from speakeasyd.domain.file_speakers import FileSpeakers
from speakeasyd.domain.incidents import Incident
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
from speakeasyd.domain.notifications import Delivery, Notification
from speakeasyd.domain.queue_order import NextJob
from speakeasyd.domain.retry import BackoffSettings
from speakeasyd.domain.transcript import (
    Artifact,
    Chunk,
    MediaWarning,
    OwnFile,
    TranscribedTrack,
    Transcript,
)
from speakeasyd.domain.uploads import FinishedUpload, UploadRequest
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger import (
    claims,
    deliveries,
    maintenance,
    new_jobs,
    people,
    publication,
    results,
    search,
    speakers,
    transitions,
    uploads,
    user_changes,
)
from speakeasyd.ledger.duplicates import Duplicates
from speakeasyd.ledger.maintenance import RecoveredClaims, Underway
from speakeasyd.ledger.people import Person, VoiceSample
from speakeasyd.ledger.readers import Readers
from speakeasyd.ledger.readonly import QUERY_S, query_readonly
from speakeasyd.ledger.rows import Parameters, Row
from speakeasyd.ledger.search import EVERYTHING, SearchFilters, SearchHit
from speakeasyd.ledger.speakers import JobSpeakers
from speakeasyd.ledger.writer import Transaction, Writer

POSTPONED = 5000  # jobs per transaction, so that other writers do not wait long
READERS = 3  # connections for the daemon's own work
WAITING = 64  # queries of clients that may wait for a connection
SEARCH_S = 5.0  # seconds that a search may take
PROBE_S = 5.0  # seconds that a probe waits for the ledger

P = ParamSpec("P")
T = TypeVar("T")


class Ledger:
    """The durable job queue.

    Changes go through one writer and are durable when their call returns. Queries never wait for
    them. The daemon opens the ledger with its `boot_id`; commands open it without one, and neither
    claim jobs nor recover claims. Every call may raise LedgerUnwritable (the disk or another
    program refuses the write) or LedgerError. Calls with a claim token raise ClaimLost if the claim
    is lost.
    """

    def __init__(self, *, path: Path, writer: Writer, clock: Clock) -> None:
        self.path = path
        self._writer = writer
        self._clock = clock
        self._own = Readers(path, size=READERS)
        self.clients = Readers(path, size=4, limit_s=QUERY_S, waiting=WAITING)
        self.searches = Readers(path, size=2, limit_s=SEARCH_S, waiting=WAITING)
        self.probes = Readers(path, size=1, limit_s=PROBE_S, waiting=WAITING)

    @classmethod
    async def open(cls, path: Path, *, clock: Clock, hub: EventHub, boot_id: str = "") -> Self:
        """Open a ledger that `migrate_ledger` has upgraded. Raises LedgerError if there is none."""
        writer = await Writer.open(path, clock=clock, hub=hub, boot_id=boot_id)
        return cls(path=path, writer=writer, clock=clock)

    async def close(self) -> None:
        """Carry out the waiting changes, then close the file. Idempotent."""
        for readers in (self.clients, self.searches, self.probes, self._own):
            await readers.close()
        await self._writer.close()

    async def write(
        self,
        operation: Callable[Concatenate[Transaction, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in a transaction of the writer: see `Writer.run_operation`."""
        return await self._writer.run_operation(operation, *args, **kwargs)

    # --- intake

    async def find_unknown_files(self, inbox: str, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Return the files without a job, compared by path, size and times."""
        return await self.read(new_jobs.find_unknown_files, inbox, sightings)

    async def add_jobs(
        self, jobs: Sequence[NewJob], *, duplicates: Duplicates = "reuse"
    ) -> list[AddedJob]:
        """Add a job for each file, or find the job that it has.

        One transaction. Returns one answer per file, in order.
        """
        return await self._writer.run_operation(new_jobs.add_jobs, jobs, duplicates=duplicates)

    async def begin_upload(self, request: UploadRequest) -> None:
        """Record an upload before its files are placed."""
        await self._writer.run_operation(uploads.begin_upload, request)

    async def finish_upload(
        self, key: str, jobs: Sequence[NewJob], *, duplicates: Duplicates = "reuse"
    ) -> list[AddedJob]:
        """As `add_jobs`, for the files of an upload; stores its answer in the same transaction."""
        return await self._writer.run_operation(
            uploads.finish_upload, key, jobs, duplicates=duplicates
        )

    async def forget_upload(self, key: str) -> None:
        """Delete the record of an upload that was refused."""
        await self._writer.run_operation(uploads.forget_upload, key)

    async def find_upload(self, key: str) -> FinishedUpload | None:
        """Return the upload of this key if its jobs were added."""
        return await self.read(uploads.find_upload, key, self.now())

    async def load_unfinished_uploads(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """Return the options of files whose upload was interrupted, by inbox and SHA-256."""
        return await self.read(uploads.load_unfinished_uploads, self.now())

    async def store_waiting_files(self, inbox: str, arrivals: Sequence[WaitingFile]) -> None:
        """Store the arrivals of an inbox that wait for long; replaces the earlier list."""
        await self._writer.run_operation(new_jobs.store_waiting_files, inbox, arrivals)

    # --- dispatcher

    async def claim_jobs(
        self, limit: int, *, model: str | None = None, inboxes: Sequence[str] | None = None
    ) -> list[Job]:
        """Claim available jobs, by priority and then age; at least one if any is available.

        `model`, `inboxes`: only jobs of these. May return fewer than are available: call it until
        it returns none.
        """
        return await self._writer.run_operation(
            claims.claim_jobs, limit, model=model, inboxes=inboxes
        )

    async def find_next_job(self, *, inboxes: Sequence[str] | None = None) -> NextJob | None:
        """Return the job that `claim_jobs` would claim first; None if there is none."""
        return await self.read(claims.find_next_job, self.now(), inboxes=inboxes)

    async def find_next_retry_time(self) -> str | None:
        """Return the time at which the next waiting job becomes available; None if none waits."""
        return await self.read(claims.find_next_retry_time, self.now())

    async def find_lost_claims(self, claimed: Sequence[tuple[JobId, Token]]) -> frozenset[JobId]:
        """Return the jobs whose claims are no longer valid."""
        return await self.read(claims.find_lost_claims, claimed)

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
        """Store what a worker has reported; None leaves a value unchanged.

        Raises ClaimLost if the claim is lost.
        """
        noted = JobNoted(
            language=language,
            language_probability=language_probability,
            model=model,
            device=device,
            container_seconds=container_seconds,
            progress=progress,
        )
        await self._writer.run_operation(claims.update_claimed_job, job_id, token, noted)

    async def store_chunks(self, done: Sequence[tuple[JobId, Token, Chunk]]) -> frozenset[JobId]:
        """Commit chunks in one transaction. Idempotent.

        Returns the jobs whose claim is lost; their chunks are not stored.
        """
        return await self._writer.run_operation(results.store_chunks, done)

    async def add_strike(
        self, job_id: JobId, token: Token, index: int, start: float, end: float
    ) -> int:
        """Count a worker's death against a chunk. Returns the strikes so far. Raises ClaimLost."""
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
        tracks: Sequence[TranscribedTrack] = (),
    ) -> None:
        """Record that all chunks are committed. Raises ClaimLost.

        `tracks`: those with their own transcripts, if there are several.
        """
        await self._writer.run_operation(
            results.mark_transcribed,
            job_id,
            token,
            audio_seconds=audio_seconds,
            warnings=warnings,
            tracks=tracks,
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
        """Return a job to `pending`; its chunks are kept. Raises ClaimLost.

        `available_at`: not before this time; None: at once. `crash`: a worker died on it.
        `counts=False`: the attempt does not count, since the job is not at fault.
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
        """Fail a job. Returns False if it was a retry: its finished transcript is kept.

        Raises ClaimLost.
        """
        return await self._writer.run_operation(
            claims.fail_job, job_id, token, code=code, error=error
        )

    async def postpone_jobs(self, model: str, *, available_at: str, code: str, error: str) -> int:
        """Postpone every pending job for `model` until a time. Returns how many.

        `code` and `error` say why.
        """
        total = 0
        postpone = partial(
            claims.postpone_jobs, available_at=available_at, code=code, error=error, limit=POSTPONED
        )
        while count := await self._writer.run_operation(postpone, model):
            total += count
        return total

    # --- publisher

    async def load_transcript(self, job_id: JobId) -> Transcript:
        """Return the transcript that readers see: the finished one, else the growing one.

        Raises LedgerError for an unknown job.
        """
        return await self.read(publication.load_transcript, job_id)

    async def transcript_to_publish(self, job_id: JobId) -> Transcript:
        """Return the transcript of the current attempt. Raises LedgerError for an unknown job."""
        return await self.read(publication.transcript_to_publish, job_id)

    async def load_job_speakers(self, job_id: JobId) -> JobSpeakers:
        """Return what is known about the speakers of the current attempt of a job.

        Raises SpeakeasyError for an unknown job.
        """
        return await self.read(speakers.load_job_speakers, job_id)

    async def store_found_speakers(
        self, job_id: JobId, token: Token, found: FileSpeakers, warning: str = ""
    ) -> None:
        """Store the speakers of a transcribed job. Raises ClaimLost.

        `warning`: why some or all of them are not known.
        """
        await self._writer.run_operation(
            speakers.store_found_speakers, job_id, token, found, warning
        )

    async def find_taken_names(
        self, outbox: str, paths: Sequence[str], *, job_id: JobId
    ) -> set[str]:
        """Return the paths that belong to another job. Ignores letter case and Unicode form."""
        return await self.read(publication.find_taken_names, outbox, paths, job_id=job_id)

    async def own_files(self, job_id: JobId) -> list[OwnFile]:
        """Return the files that this job and earlier versions of its source wrote or reserved."""
        return await self.read(publication.own_files, job_id)

    async def find_ended_jobs(self, inbox: str, sightings: Sequence[Sighting]) -> list[EndedJob]:
        """Return the ended jobs of these files that will not be read again."""
        return await self.read(publication.find_ended_jobs, inbox, sightings)

    async def reserve_artifacts(
        self, job_id: JobId, token: Token, artifacts: Sequence[Artifact]
    ) -> set[str]:
        """Reserve the names of artifacts before any file is written. Raises ClaimLost.

        Returns the names that another job has reserved in the meantime. If there are any, none was
        reserved, and other names must be chosen.
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
        """Complete a job whose artifacts are durable in the outbox. Raises ClaimLost.

        `removed`: files of this job that are no longer in the outbox. Jobs of earlier versions of
        the same file become superseded.
        """
        await self._writer.run_operation(
            publication.complete_job, job_id, token, artifacts, removed=removed
        )

    # --- users

    async def retry_jobs(self, ids: Sequence[int]) -> list[JobId]:
        """Retry ended jobs. Returns the retried jobs.

        A job that is superseded by a later job of its path is not retried.
        """
        return [
            job_id
            for part in transitions.split_into_slices(ids)
            for job_id in await self._writer.run_operation(user_changes.retry_jobs, part)
        ]

    async def cancel_jobs(self, ids: Sequence[int]) -> list[JobId]:
        """Cancel jobs that have not ended. Returns the cancelled jobs."""
        return [
            job_id
            for part in transitions.split_into_slices(ids)
            for job_id in await self._writer.run_operation(user_changes.cancel_jobs, part)
        ]

    async def replace_speakers(
        self, job_id: JobId, found: FileSpeakers, *, expected: tuple[Speaker, ...]
    ) -> None:
        """Change the speakers of a completed job; its transcript is then published again.

        `expected`: the speakers as the caller read them. Raises SpeakeasyError if the job has
        changed since then or is not completed.
        """
        await self._writer.run_operation(
            speakers.replace_speakers, job_id, found, expected=expected
        )

    async def load_people(self) -> list[Person]:
        """Return all known people by name, each with all samples."""
        return await self.read(people.load_people)

    async def add_voice_sample(self, name: str, sample: VoiceSample) -> int:
        """Add a sample to a person, who is created if needed. Returns the person's id."""
        return await self._writer.run_operation(people.add_voice_sample, name, sample)

    async def rename_person(self, name: str, new: str) -> list[int]:
        """Rename a person, also in the speakers of jobs. Returns the jobs. Raises SpeakeasyError."""
        return await self._writer.run_operation(people.rename_person, name, new)

    async def merge_people(self, name: str, into: str) -> list[int]:
        """Give a person's samples to another one. Returns the changed jobs. Raises SpeakeasyError."""
        return await self._writer.run_operation(people.merge_people, name, into)

    async def forget_person(self, name: str) -> int:
        """Delete a person with all samples. Returns how many. Raises SpeakeasyError."""
        return await self._writer.run_operation(people.forget_person, name)

    # --- recovery and maintenance

    async def release_stale_claims(self) -> RecoveredClaims:
        """Return every job that an earlier daemon had claimed to `pending`; its chunks are kept."""
        return await self._writer.run_operation(maintenance.release_stale_claims)

    async def shorten_waits(
        self, backoff_settings: BackoffSettings, *, delivery_wait_s: float, final_wait_s: float
    ) -> None:
        """Limit every wait to its longest possible value: the clock may have been set back."""
        await self._writer.run_operation(
            maintenance.shorten_waits,
            backoff_settings,
            delivery_wait_s=delivery_wait_s,
            final_wait_s=final_wait_s,
        )

    async def shift_waits(self, seconds: float) -> None:
        """Shift stored waits by `seconds`, by which the clock was set: they keep their length."""
        await self._writer.run_operation(maintenance.shift_waits, seconds)

    async def underway(self) -> list[Underway]:
        """Return every claimed job with its progress."""
        return await self.read(maintenance.find_underway)

    async def chunks_of_unfinished(self, job_ids: Sequence[JobId]) -> dict[JobId, int]:
        """Return the number of committed chunks of each of these jobs that has not ended."""
        return await self.read(maintenance.chunks_of_unfinished, job_ids)

    async def open_incident(self, incident: Incident) -> int:
        """Record an incident. Returns its id."""
        return await self._writer.run_operation(maintenance.open_incident, incident)

    async def close_incident(self, incident_id: int, *, cost_seconds: float) -> None:
        """Record that an incident is resolved. `cost_seconds`: how long it took."""
        await self._writer.run_operation(
            maintenance.close_incident, incident_id, cost_seconds=cost_seconds
        )

    async def load_state(self, key: str) -> Any:
        """Return the stored value of `key`, decoded from JSON; None if there is none."""
        return await self.read(maintenance.load_state, key)

    async def store_state(self, key: str, value: object) -> None:
        """Store a value as JSON in the table `state`, replacing the earlier one."""
        await self._writer.run_operation(maintenance.store_state, key, value)

    async def try_write(self) -> None:
        """Take the write lock for a moment.

        Raises LedgerUnwritable while another program holds it or the disk refuses writes.
        """
        await self._writer.run_operation(lambda _transaction: None)

    async def send_request(self, request: DaemonRequest) -> None:
        """Leave a request for the daemon, which gets it as an event within a second."""
        await self._writer.run_operation(maintenance.send_request, request)

    async def detect_foreign_commit(self) -> bool:
        """Return whether another program has committed since the last call.

        If so, publishes its events.
        """
        return await self._writer.detect_foreign_commit()

    async def prune_history(self, *, jobs_before: str | None, events_before: str) -> int:
        """Delete jobs that ended before a time, and events from before another time.

        Returns the number of deleted jobs.
        """
        removed = 0
        while jobs_before and (
            count := await self._writer.run_operation(maintenance.delete_old_jobs, jobs_before)
        ):
            removed += count
        await self._writer.run_operation(maintenance.delete_old_events, events_before)
        return removed

    # --- notifications

    async def load_notification_cursor(self) -> tuple[int, str]:
        """Return the notifier's cursor: the last event's number and the time of the last batch
        check.

        Before the first run: the newest event and the current time.
        """
        return await self.read(deliveries.load_cursor, self.now())

    async def find_newest_event(self) -> int:
        return await self.read(deliveries.find_newest_seq)

    async def find_finished_batches(self, *, since: str, until: str) -> list[BatchCompleted]:
        """Return the batches whose last job ended in (since, until] and that have no job left."""
        return await self.read(deliveries.find_finished_batches, since=since, until=until)

    async def record_finished_batches(
        self, batches: Sequence[BatchCompleted], *, seq: int, until: str
    ) -> None:
        """Record `batch.completed` for each batch, and move the cursor."""
        await self._writer.run_operation(
            deliveries.record_finished_batches, batches, seq=seq, until=until
        )

    async def load_events_with_jobs(
        self, kinds: Iterable[EventKind], *, after: int, upto: int
    ) -> list[Event]:
        """Return events of these kinds with `after < seq <= upto`, with the data of their jobs.

        Ordered by number. May return fewer than there are: call it until it returns none.
        """
        return await self.read(deliveries.load_events_with_jobs, kinds, after=after, upto=upto)

    async def enqueue_deliveries(
        self, wanted: Sequence[tuple[str, Notification]], *, seq: int, until: str
    ) -> None:
        """Enqueue a delivery per target and event, and move the cursor to `seq`. Idempotent."""
        await self._writer.run_operation(
            deliveries.enqueue_deliveries, wanted, seq=seq, until=until
        )

    async def find_next_delivery(self, target: str) -> Delivery | None:
        """Return the delivery of a target that is due first; None if there is none."""
        return await self.read(deliveries.find_next_delivery, target)

    async def mark_delivered(self, delivery: Delivery) -> None:
        await self._writer.run_operation(deliveries.mark_delivered, delivery.id)

    async def mark_delivery_failed(
        self, delivery: Delivery, target: str, *, error: str, again_at: str | None
    ) -> None:
        """Record a failed attempt. `again_at`: time of the next attempt; None: give up."""
        await self._writer.run_operation(
            deliveries.mark_delivery_failed, delivery, target, error=error, again_at=again_at
        )

    # --- reading

    async def read(
        self,
        query: Callable[Concatenate[Connection, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a query of the daemon's own work on a snapshot: see `Readers.read`."""
        return await self._own.read(query, *args, **kwargs)

    async def query_rows(self, sql: str, params: Parameters = ()) -> list[Row]:
        """Return the rows of a user's query: see `query_readonly`. Blocks the event loop."""
        return query_readonly(self.path, sql, params, limit_s=QUERY_S)

    async def search_text(
        self, words: str, *, limit: int = 20, filters: SearchFilters = EVERYTHING
    ) -> list[SearchHit]:
        """Return the segments that contain these words, best first: see `ledger.search`."""
        return await self.searches.read(search.search_text, words, limit=limit, filters=filters)

    def now(self) -> str:
        """Return the current time as the ledger stores times."""
        return format_utc(self._clock.utc())
