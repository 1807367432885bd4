"""Lets the settled files of one inbox into the ledger: looks until they are still, reads them, adds them as jobs."""

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
from pathlib import Path

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
from speakeasyd.services.arrivals import Arrivals
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup

SLICE = 1000  # files looked at in one go, and jobs added in one transaction, at most
LANES = 2  # files of one inbox read side by side
BUNCH = 32  # small files read in one go by a lane
BUNCH_BYTES = 8 * 1024 * 1024  # what they may have together; a larger file goes alone
# Seconds that a round waits for the lanes, so that one transaction takes what they bring
PATIENCE_S = 0.5
# Seconds between tries while the ledger cannot be written, or the folder does not answer
RETRY_S = 5.0
ANSWER_S = 120.0  # seconds for the folder to answer a slice of looks
TOLD_EVERY_S = 5.0  # seconds between two looks at who waits for long
TOLD_MOST = 1000  # files that are named as waiting for long
LOGGED_MOST = 5  # files that are named in the log at one time

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
    ) -> None:
        super().__init__()
        self._inbox = inbox
        self._duplicates = settings.watch.duplicates
        self._patience = IncompleteWait(
            settings.watch.incomplete_s, settings.watch.incomplete_max_s
        )
        self._presets = Presets(
            defaults=settings.options, presets=settings.presets, inbox_preset=inbox.preset
        )
        self._arrivals = arrivals
        self._ledger = ledger
        self._clock = clock
        self._settled: list[
            tuple[int, bytes, Observation]
        ] = []  # a heap: small files first, they are quick
        self._lanes: set[asyncio.Task[None]] = set()
        self._lane_error: BaseException | None = None  # for the next round to raise
        self._brought = asyncio.Event()  # the lanes have brought a slice, or all there was
        self._outcomes: list[tuple[bytes, Outcome]] = []
        self._stopped = threading.Event()
        self._looking = ThreadGroup(f"looks at {inbox.name}")
        self._reading = ThreadGroup(f"reads {inbox.name}", size=LANES)
        self._told: frozenset[tuple[bytes, str]] = frozenset()
        self._tell_at = 0.0
        self.refusal = ""  # why the ledger takes no files just now; empty while it does

    @property
    def name(self) -> str:
        return f"admission {self._inbox.name}"

    async def run_once(self) -> float | None:
        """One round: look at the files that are due, read those that have settled, add those that have been read."""
        try:
            more = await self._check_due_files()
            await self._hash_settled_files()
            await self._add_jobs()
            self._raise_lane_error()
            await self._store_waiting_files()
        except LedgerUnwritable as error:
            if (
                not isinstance(error, LedgerHeld) and not self.refusal
            ):  # the heartbeat tells of the former
                log.warning("inbox %s: arrivals wait for the ledger: %s", self._inbox.name, error)
            self.refusal = str(error)
            return RETRY_S
        except TimeoutError:
            log.warning("inbox %s: the folder does not answer", self._inbox.name)
            return RETRY_S
        self.refusal = ""
        return 0.0 if more or self._outcomes else self._until_next_look()

    async def stop(self) -> None:
        await super().stop()
        self._stopped.set()
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._looking.close()
        self._reading.close()

    async def admit_file(
        self, files: Sequence[tuple[bytes, str]], changes: Changes, *, awaited: bool = False
    ) -> list[AddedJob]:
        """Give files that are known to be complete their jobs at once, in one transaction: all or none.

        `files`: path and SHA-256 of each. Raises FileFault: `bad_sidecar`, or one is gone; LedgerError.

        `awaited`: somebody waits for this text, who would not be served by that of an earlier file.
        """
        try:
            found = await self._looking.run_within(
                ANSWER_S, self._observe_files, [path for path, _ in files]
            )
        except TimeoutError as error:
            raise FileFault(ErrorCode.SOURCE_UNREADABLE, "the inbox does not answer") from error
        jobs = [
            replace(
                self._build_job(path, self._require_seen(seen), sha256, changes=changes),
                patience=None,
            )
            for (path, sha256), seen in zip(files, found, strict=True)
        ]
        duplicates = "reuse" if awaited and self._duplicates == "skip" else self._duplicates
        return await self._ledger.add_jobs(jobs, duplicates=duplicates)

    def _require_seen(self, seen: Observation | AccessProblem) -> Observation:
        if isinstance(seen, AccessProblem):
            raise FileFault(ErrorCode.SOURCE_MISSING, f"the file cannot be taken: {seen.value}")
        return seen

    def _raise_lane_error(self) -> None:
        error, self._lane_error = self._lane_error, None
        if error:
            raise error

    # --- settle

    async def _check_due_files(self) -> bool:
        """Whether there may be more to look at."""
        with self._arrivals.take_due(self._clock.monotonic(), SLICE) as paths:
            found = (
                await self._looking.run_within(ANSWER_S, self._observe_files, paths)
                if paths
                else []
            )
            now = self._clock.monotonic()
            for path, seen in zip(paths, found, strict=True):
                self._hand_on(path, self._arrivals.record_observation(path, seen, now), now)
        return len(paths) == SLICE

    def _hand_on(self, path: bytes, decision: Decision, now: float) -> None:
        try:
            match decision:
                case Settled(seen=still) | GiveUp(seen=still):
                    heapq.heappush(self._settled, (still.file.size, path, still))
        except BaseException:
            self._arrivals.restore_file(path, now)
            raise

    def _observe_files(self, paths: Sequence[bytes]) -> list[Observation | AccessProblem]:
        root = self._inbox.path
        own = file_identity.find_local_device(root)
        return [self._look_safely(root, path, own) for path in paths]

    def _look_safely(self, root: Path, path: bytes, own: int | None) -> Observation | AccessProblem:
        """One file that cannot be looked at keeps none of the others waiting."""
        try:
            return file_identity.observe_file(root, path, own=own)
        except Exception:
            log.exception("inbox %s: %r could not be looked at", self._inbox.name, path)
            return AccessProblem.UNREADABLE

    def _until_next_look(self) -> float | None:
        due = self._arrivals.next_due
        if due is None:
            return TOLD_EVERY_S if self._told else None
        return max(0.0, min(due - self._clock.monotonic(), TOLD_EVERY_S))

    # --- identify

    async def _hash_settled_files(self) -> None:
        """Have the lanes read what has settled, and wait a moment for what they bring. They go on meanwhile."""
        for _ in range(min(LANES - len(self._lanes), len(self._settled))):
            lane = asyncio.create_task(self._run_hash_worker(), name=f"read {self._inbox.name}")
            self._lanes.add(lane)
            lane.add_done_callback(self._on_hash_worker_done)
        self._brought.clear()
        if self._lanes and len(self._outcomes) < SLICE:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._brought.wait()

    async def _run_hash_worker(self) -> None:
        while self._settled and len(self._outcomes) < 2 * SLICE:
            bunch = self._take_batch()
            try:
                self._outcomes += await self._reading.run(self._hash_batch, bunch)
            except BaseException:
                for path, seen in bunch:
                    heapq.heappush(self._settled, (seen.file.size, path, seen))
                raise
            if len(self._outcomes) >= SLICE:
                self._brought.set()
            self.wake()

    def _on_hash_worker_done(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled() and (error := lane.exception()):
            self._lane_error = error
        if not self._lanes:
            self._brought.set()

    def _take_batch(self) -> list[tuple[bytes, Observation]]:
        bunch: list[tuple[bytes, Observation]] = []
        size = 0
        while (
            self._settled
            and len(bunch) < BUNCH
            and (not bunch or size + self._settled[0][0] <= BUNCH_BYTES)
        ):
            size_of_one, path, seen = heapq.heappop(self._settled)
            size += size_of_one
            bunch.append((path, seen))
        return bunch

    def _hash_batch(
        self, bunch: Sequence[tuple[bytes, Observation]]
    ) -> list[tuple[bytes, Outcome]]:
        """In a thread."""
        return [(path, self._hash_file_guarded(path, seen)) for path, seen in bunch]

    def _hash_file_guarded(self, path: bytes, seen: Observation) -> Outcome:
        try:
            return self._hash_file(path, seen)
        except Exception:
            log.exception("inbox %s: %r could not be read", self._inbox.name, path)
            return AccessProblem.UNREADABLE

    def _hash_file(self, path: bytes, seen: Observation) -> Outcome:
        root = self._inbox.path
        if held := file_identity.find_holder(root, path):
            return held
        sha256 = file_identity.hash_file(root, path, seen.file, stopped=self._stopped.is_set)
        if isinstance(sha256, AccessProblem):
            return sha256
        if held := file_identity.find_holder(root, path):  # opened again while it was read
            return held
        return self._identified(path, seen, sha256)

    def _identified(self, path: bytes, seen: Observation, sha256: str) -> NewJob | AccessProblem:
        """The job of a file that was read whole."""
        root = self._inbox.path
        if not seen.file.size:
            return self._build_empty_job(path, seen)
        if seen.sidecar is None:
            return self._build_job(path, seen, sha256)
        try:
            data = file_identity.read_sidecar(root, path, seen.sidecar)
            if isinstance(data, AccessProblem):
                return data
            return self._build_job(path, seen, sha256, changes=parse_sidecar(data))
        except FileFault as fault:
            return self._build_job(
                path, seen, sha256, failure=(fault.code, f"{fault}. {fault.hint}")
            )

    def _build_empty_job(self, path: bytes, seen: Observation) -> NewJob:
        failure = ErrorCode.EMPTY_FILE, "the file has zero bytes, and nothing more came"
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
        """Raises FileFault: `bad_sidecar`."""
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
            patience=self._patience,
        )

    # --- add

    async def _add_jobs(self) -> None:
        """One slice: it is in the ledger, or stays for the next round."""
        part = self._outcomes[:SLICE]
        if jobs := [outcome for _, outcome in part if isinstance(outcome, NewJob)]:
            try:
                await self._ledger.add_jobs(jobs, duplicates=self._duplicates)
            except LedgerError:
                raise
            except Exception:
                log.exception("inbox %s: some files could not be added together", self._inbox.name)
                part = [await self._add_one(path, outcome) for path, outcome in part]
        del self._outcomes[: len(part)]
        now = self._clock.monotonic()
        for path, outcome in part:
            if isinstance(outcome, AccessProblem | OpenFile):
                self._arrivals.record_observation(path, outcome, now)
            else:
                self._arrivals.mark_admitted(path, now)

    async def _add_one(self, path: bytes, outcome: Outcome) -> tuple[bytes, Outcome]:
        """One that the ledger refuses is looked at again later, and keeps no other from its job."""
        if isinstance(outcome, NewJob):
            try:
                await self._ledger.add_jobs([outcome], duplicates=self._duplicates)
            except LedgerError:
                raise
            except Exception:
                log.exception("inbox %s: %r could not be added", self._inbox.name, path)
                outcome = AccessProblem.UNREADABLE
        return path, outcome

    # --- tell

    async def _store_waiting_files(self) -> None:
        """Name the files that wait for long in the ledger, for the people who ask."""
        now = self._clock.monotonic()
        if now < self._tell_at:
            return
        self._tell_at = now + TOLD_EVERY_S
        waiting = list(self._arrivals.list_waiting(now))[:TOLD_MOST]
        told = frozenset((path, still.reason) for path, still in waiting)
        if told != self._told:
            self._warn_of(waiting)
            utc = self._clock.utc()
            await self._ledger.store_waiting_files(
                self._inbox.name,
                [
                    WaitingFile(
                        path=path,
                        size=still.seen.file.size if still.seen else 0,
                        since=format_utc(utc - timedelta(seconds=now - still.first)),
                        reason=still.reason,
                    )
                    for path, still in waiting
                ],
            )
            self._told = told

    def _warn_of(self, waiting: Sequence[tuple[bytes, DebounceState]]) -> None:
        """Log each file that cannot be read once for each reason."""
        new = [
            (path, still)
            for path, still in waiting
            if still.trouble and (path, still.reason) not in self._told
        ]
        for path, still in new[:LOGGED_MOST]:
            name = path.decode("utf-8", "backslashreplace")
            hint = (
                "; it is taken within seconds once that is allowed"
                if still.trouble in NO_PERMISSION
                else ""
            )
            log.warning(
                "inbox %s: %s cannot be taken: %s%s", self._inbox.name, name, still.reason, hint
            )
        if len(new) > LOGGED_MOST:
            more = len(new) - LOGGED_MOST
            log.warning(
                "inbox %s: %s more files cannot be taken: see speakeasyd status",
                self._inbox.name,
                more,
            )
