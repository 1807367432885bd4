"""Admission of one inbox: debounces its files, hashes them, and adds them to the ledger as jobs."""

import asyncio
import hashlib
import heapq
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.debounce import (
    NO_PERMISSION,
    AccessProblem,
    DebounceState,
    Decision,
    GiveUp,
    Observation,
    OpenFile,
    Settled,
)
from speakeasyd.domain.job import AddedJob, IncompleteWait, NewJob, WaitingFile
from speakeasyd.domain.presets import Changes, Presets, parse_sidecar
from speakeasyd.errors import ErrorCode, FileFault, LedgerError, LedgerHeld, LedgerUnwritable
from speakeasyd.inbox import file_identity
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs, store_waiting_files
from speakeasyd.ledger.uploads import finish_upload
from speakeasyd.services.arrivals import Arrivals
from speakeasyd.services.service import Service
from speakeasyd.services.uploads_under_way import UploadsUnderWay
from speakeasyd.thread_group import ThreadGroup

SLICE = 1000  # most files observed per round, and most jobs added per transaction
HASH_WORKERS = 2  # number of hash workers of one inbox
BATCH = 32  # most small files that a hash worker reads at once
BATCH_BYTES = 8 * 1024 * 1024  # most bytes of such a batch; a larger file is read alone
# Seconds that a round waits for the hash workers, so that one transaction takes all their results
HASH_WAIT_S = 0.5
# Seconds between retries while the ledger cannot be written or the folder does not answer
RETRY_S = 5.0
ANSWER_S = 120.0  # seconds for the folder to answer one round of observations
REPORT_S = 5.0  # seconds between two checks for files that wait for long
REPORT_MOST = 1000  # most files that are stored as waiting for long
LOGGED_MOST = 5  # most files that are named in the log at one time

log = logging.getLogger(__name__)

Outcome = NewJob | AccessProblem | OpenFile


class Admission(Service):
    def __init__(
        self,
        *,
        inbox: InboxSettings,
        settings: Settings,
        arrivals: Arrivals,
        ledger: Ledger,
        clock: Clock,
        uploads: UploadsUnderWay,
    ) -> None:
        super().__init__()
        self._inbox = inbox
        self._duplicates = settings.watch.duplicates
        self._incomplete_wait = IncompleteWait(
            settings.watch.incomplete_s, settings.watch.incomplete_max_s
        )
        self._presets = Presets(
            defaults=settings.options, presets=settings.presets, inbox_preset=inbox.preset
        )
        self._arrivals = arrivals
        self._ledger = ledger
        self._clock = clock
        self._uploads = uploads
        # a heap of settled files: small files first, because they are quick
        self._settled: list[tuple[int, bytes, Observation]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._worker_error: BaseException | None = None  # raised by the next round
        # set when the hash workers have a full slice of results, or no more files
        self._hashed = asyncio.Event()
        self._outcomes: list[tuple[bytes, Outcome]] = []
        self._stopped = threading.Event()
        self._observe_threads = ThreadGroup(f"observe {inbox.name}")
        self._hash_threads = ThreadGroup(f"hash {inbox.name}", size=HASH_WORKERS)
        self._reported: frozenset[tuple[bytes, str]] = frozenset()
        self._report_at = 0.0
        self.refusal = ""  # why the ledger accepts no files now; empty while it does

    @property
    def name(self) -> str:
        return f"admission {self._inbox.name}"

    async def run_once(self) -> float | None:
        """Run one round: observe the due files, hash the settled ones, add the hashed ones.

        Returns the seconds until the next round; None: only when woken.
        """
        try:
            more = await self._check_due_files()
            await self._hash_settled_files()
            await self._add_jobs()
            self._raise_worker_error()
            await self._store_waiting_files()
        except LedgerUnwritable as error:
            # the heartbeat reports a held ledger
            if not isinstance(error, LedgerHeld) and not self.refusal:
                log.warning("inbox %s: arrivals wait for the ledger: %s", self._inbox.name, error)
            self.refusal = str(error)
            return RETRY_S
        except TimeoutError:
            log.warning("inbox %s: the folder does not answer", self._inbox.name)
            return RETRY_S
        self.refusal = ""
        return 0.0 if more or self._outcomes else self._seconds_until_due()

    async def stop(self) -> None:
        await super().stop()
        self._stopped.set()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._observe_threads.close()
        self._hash_threads.close()

    async def admit_file(
        self,
        files: Sequence[tuple[bytes, str]],
        changes: Changes,
        *,
        upload: str,
        awaited: bool = False,
    ) -> list[AddedJob]:
        """Add jobs for files that are known to be complete, in one transaction: all or none.

        `files`: path and SHA-256 of each. `upload`: key of the upload, recorded with its jobs.
        `awaited`: a client waits for this text, so the job is not skipped as a duplicate.

        Raises FileFault if a sidecar is wrong, a file is missing or the inbox does not answer;
        LedgerError.
        """
        try:
            observed = await self._observe_threads.run_within(
                ANSWER_S, self._observe_files, [path for path, _ in files]
            )
        except TimeoutError as error:
            raise FileFault(ErrorCode.SOURCE_UNREADABLE, "the inbox does not answer") from error
        jobs = [
            replace(
                self._build_job(path, self._require_observation(seen), sha256, changes=changes),
                patience=None,
            )
            for (path, sha256), seen in zip(files, observed, strict=True)
        ]
        duplicates = "reuse" if awaited and self._duplicates == "skip" else self._duplicates
        return await self._ledger.write(finish_upload, upload, jobs, duplicates=duplicates)

    def _require_observation(self, seen: Observation | AccessProblem) -> Observation:
        if isinstance(seen, AccessProblem):
            raise FileFault(ErrorCode.SOURCE_MISSING, f"the file cannot be read: {seen.value}")
        return seen

    def _raise_worker_error(self) -> None:
        error, self._worker_error = self._worker_error, None
        if error:
            raise error

    # --- debounce

    async def _check_due_files(self) -> bool:
        """Observe the due files. Returns whether more may be due."""
        with self._arrivals.take_due(self._clock.monotonic(), SLICE) as paths:
            observed = (
                await self._observe_threads.run_within(ANSWER_S, self._observe_files, paths)
                if paths
                else []
            )
            now = self._clock.monotonic()
            for path, seen in zip(paths, observed, strict=True):
                self._queue_settled(path, self._arrivals.record_observation(path, seen, now), now)
        return len(paths) == SLICE

    def _queue_settled(self, path: bytes, decision: Decision, now: float) -> None:
        try:
            match decision:
                case Settled(seen=seen) | GiveUp(seen=seen):
                    heapq.heappush(self._settled, (seen.file.size, path, seen))
        except BaseException:
            self._arrivals.restore_file(path, now)
            raise

    def _observe_files(self, paths: Sequence[bytes]) -> list[Observation | AccessProblem]:
        root = self._inbox.path
        own = file_identity.find_local_device(root)
        with file_identity.LastFolder(root) as folders:
            return [self._observe_file_guarded(folders, path, own) for path in paths]

    def _observe_file_guarded(
        self, folders: file_identity.LastFolder, path: bytes, own: int | None
    ) -> Observation | AccessProblem:
        """Observe one file. An unexpected error does not affect the other files."""
        try:
            return file_identity.observe_file_in(folders, path, own=own)
        except Exception:
            log.exception("inbox %s: cannot observe %r", self._inbox.name, path)
            return AccessProblem.UNREADABLE

    def _seconds_until_due(self) -> float | None:
        due = self._arrivals.next_due
        if due is None:
            return REPORT_S if self._reported else None
        return max(0.0, min(due - self._clock.monotonic(), REPORT_S))

    # --- hash

    async def _hash_settled_files(self) -> None:
        """Start hash workers for the settled files, and wait a moment for results.

        The workers continue after this returns.
        """
        for _ in range(min(HASH_WORKERS - len(self._workers), len(self._settled))):
            worker = asyncio.create_task(self._run_hash_worker(), name=f"hash {self._inbox.name}")
            self._workers.add(worker)
            worker.add_done_callback(self._on_hash_worker_done)
        self._hashed.clear()
        if self._workers and len(self._outcomes) < SLICE:
            with suppress(TimeoutError):
                async with asyncio.timeout(HASH_WAIT_S):
                    await self._hashed.wait()

    async def _run_hash_worker(self) -> None:
        while self._settled and len(self._outcomes) < 2 * SLICE:
            batch = self._take_batch()
            try:
                self._outcomes += await self._hash_threads.run(self._hash_batch, batch)
            except BaseException:
                for path, seen in batch:
                    heapq.heappush(self._settled, (seen.file.size, path, seen))
                raise
            if len(self._outcomes) >= SLICE:
                self._hashed.set()
            self.wake()

    def _on_hash_worker_done(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()):
            self._worker_error = error
        if not self._workers:
            self._hashed.set()

    def _take_batch(self) -> list[tuple[bytes, Observation]]:
        batch: list[tuple[bytes, Observation]] = []
        size = 0
        while (
            self._settled
            and len(batch) < BATCH
            and (not batch or size + self._settled[0][0] <= BATCH_BYTES)
        ):
            file_size, path, seen = heapq.heappop(self._settled)
            size += file_size
            batch.append((path, seen))
        return batch

    def _hash_batch(
        self, batch: Sequence[tuple[bytes, Observation]]
    ) -> list[tuple[bytes, Outcome]]:
        """Hash a batch of files in a thread."""
        return [(path, self._hash_file_guarded(path, seen)) for path, seen in batch]

    def _hash_file_guarded(self, path: bytes, seen: Observation) -> Outcome:
        try:
            return self._hash_file(path, seen)
        except Exception:
            log.exception("inbox %s: cannot read %r", self._inbox.name, path)
            return AccessProblem.UNREADABLE

    def _hash_file(self, path: bytes, seen: Observation) -> Outcome:
        root = self._inbox.path
        if writer := file_identity.find_writer(root, path):
            return writer
        sha256 = file_identity.hash_file(root, path, seen.file, stopped=self._stopped.is_set)
        if isinstance(sha256, AccessProblem):
            return sha256
        if writer := file_identity.find_writer(root, path):  # opened again while it was hashed
            return writer
        return self._build_hashed_job(path, seen, sha256)

    def _build_hashed_job(
        self, path: bytes, seen: Observation, sha256: str
    ) -> NewJob | AccessProblem:
        """Return the job of a file that was hashed completely."""
        root = self._inbox.path
        if not seen.file.size:
            return self._build_empty_job(path, seen)
        try:
            if seen.sidecar is None:
                changes = self._uploads.find_options(self._inbox.name, sha256)
                return self._build_job(path, seen, sha256, changes=changes)
            data = file_identity.read_sidecar(root, path, seen.sidecar)
            if isinstance(data, AccessProblem):
                return data
            return self._build_job(path, seen, sha256, changes=parse_sidecar(data))
        except FileFault as fault:
            return self._build_job(
                path, seen, sha256, failure=(fault.code, f"{fault}. {fault.hint}")
            )

    def _build_empty_job(self, path: bytes, seen: Observation) -> NewJob:
        failure = ErrorCode.EMPTY_FILE, "the file has zero bytes and stayed empty"
        return self._build_job(path, seen, hashlib.sha256().hexdigest(), failure=failure)

    def _build_job(
        self,
        path: bytes,
        seen: Observation,
        sha256: str,
        *,
        changes: Changes | None = None,
        failure: tuple[str, str] | None = None,
    ) -> NewJob:
        """Return the job of a file. Raises FileFault for a wrong sidecar or preset."""
        folder = path.partition(b"/")[0] if b"/" in path else b""
        choice = self._presets.choose_options(os.fsdecode(folder), changes)
        return NewJob(
            inbox=self._inbox.name,
            path=path,
            signature=seen.file,
            sha256=sha256,
            options=choice.options,
            preset=choice.preset,
            batch=folder.decode("utf-8", "backslashreplace") or self._inbox.name,
            failure=failure,
            patience=self._incomplete_wait,
        )

    # --- add

    async def _add_jobs(self) -> None:
        """Add one slice of results to the ledger. If that fails, they stay for the next round."""
        self._restore_reserved_files()
        part = self._outcomes[:SLICE]
        if jobs := [outcome for _, outcome in part if isinstance(outcome, NewJob)]:
            try:
                await self._ledger.write(add_jobs, jobs, duplicates=self._duplicates)
            except LedgerError:
                raise
            except Exception:
                log.exception("inbox %s: cannot add some files together", self._inbox.name)
                part = [await self._add_single_job(path, outcome) for path, outcome in part]
        del self._outcomes[: len(part)]
        now = self._clock.monotonic()
        for path, outcome in part:
            if isinstance(outcome, AccessProblem | OpenFile):
                self._arrivals.record_observation(path, outcome, now)
            else:
                self._arrivals.mark_admitted(path, now)

    def _restore_reserved_files(self) -> None:
        """Observe files again later that an upload is placing, and may take back."""
        ready = []
        for path, outcome in self._outcomes:
            if self._uploads.is_reserved(self._inbox.name, path):
                self._arrivals.restore_file(path, self._clock.monotonic())
            else:
                ready.append((path, outcome))
        self._outcomes[:] = ready

    async def _add_single_job(self, path: bytes, outcome: Outcome) -> tuple[bytes, Outcome]:
        """Add a single job. If the ledger refuses it, its file is observed again later."""
        if isinstance(outcome, NewJob):
            try:
                await self._ledger.write(add_jobs, [outcome], duplicates=self._duplicates)
            except LedgerError:
                raise
            except Exception:
                log.exception("inbox %s: cannot add %r", self._inbox.name, path)
                outcome = AccessProblem.UNREADABLE
        return path, outcome

    # --- report

    async def _store_waiting_files(self) -> None:
        """Store the files that wait for long in the ledger, for `status` and the page."""
        now = self._clock.monotonic()
        if now < self._report_at:
            return
        self._report_at = now + REPORT_S
        waiting = list(self._arrivals.list_waiting(now))[:REPORT_MOST]
        reported = frozenset((path, state.reason) for path, state in waiting)
        if reported != self._reported:
            self._log_unreadable(waiting)
            utc = self._clock.utc()
            await self._ledger.write(
                store_waiting_files,
                self._inbox.name,
                [
                    WaitingFile(
                        path=path,
                        size=state.seen.file.size if state.seen else 0,
                        since=format_utc(utc - timedelta(seconds=now - state.first)),
                        reason=state.reason,
                    )
                    for path, state in waiting
                ],
            )
            self._reported = reported

    def _log_unreadable(self, waiting: Sequence[tuple[bytes, DebounceState]]) -> None:
        """Log each file that cannot be read, once per reason."""
        new = [
            (path, state)
            for path, state in waiting
            if state.trouble and (path, state.reason) not in self._reported
        ]
        for path, state in new[:LOGGED_MOST]:
            name = path.decode("utf-8", "backslashreplace")
            hint = (
                "; it is read within seconds once this is permitted"
                if state.trouble in NO_PERMISSION
                else ""
            )
            log.warning(
                "inbox %s: cannot read %s: %s%s", self._inbox.name, name, state.reason, hint
            )
        if len(new) > LOGGED_MOST:
            more = len(new) - LOGGED_MOST
            log.warning(
                "inbox %s: cannot read %s more files: see speakeasyd status",
                self._inbox.name,
                more,
            )
