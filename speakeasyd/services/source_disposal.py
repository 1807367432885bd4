"""Disposes of sources whose job has ended: archives, deletes, or moves to the failed folder."""

import asyncio
from pathlib import Path

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.event_payloads import Payload, SourceKept, SourcePutAway, SourceStuck
from speakeasyd.domain.job import EndedJob, Sighting
from speakeasyd.domain.transcript import INCOMPLETE, PARTIAL
from speakeasyd.errors import SpeakeasyError
from speakeasyd.events import Event, EventHub
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing, scan_inbox
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.publication import find_ended_jobs
from speakeasyd.outbox.source_folder import Kept, SourceFolder, delete_source, restore_aside
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup

SCAN_S = 600.0  # seconds for the folders of one inbox to answer a whole scan
# Seconds for one file to be moved, which copies it where the archive is on another disk
MOVE_S = 3600.0
MOVERS = 2  # files of one inbox that are moved at the same time

NOTE = """\
This file could not be transcribed.

What happened: {error}
Error code:    {code} (docs/errors.md says what to do)
Job:           {job_id}
When:          {now}

To try again, put the file into the inbox once more.
"""


class SourceDisposal(Service):
    """Moves or deletes sources. A failure never fails the job; the next round tries again.

    A round compares the inboxes with the ledger, so it also finds sources left by a crash.
    """

    def __init__(self, *, ledger: Ledger, settings: Settings, hub: EventHub, clock: Clock) -> None:
        super().__init__()
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._period_s = settings.watch.rescan_s
        self._inboxes = {inbox.name: inbox for inbox in settings.inboxes}
        self._rules = {
            inbox.name: InboxRules.for_inbox(settings, inbox) for inbox in settings.inboxes
        }
        self._archives = {
            inbox.name: SourceFolder(inbox.archive)
            for inbox in settings.inboxes
            if inbox.archive and inbox.sources == "archive"
        }
        self._restored: set[str] = set()
        self._threads = {
            inbox.name: ThreadGroup(f"sources of {inbox.name}", size=MOVERS)
            for inbox in settings.inboxes
        }
        self._failed = {
            inbox.name: SourceFolder(inbox.failed) for inbox in settings.inboxes if inbox.failed
        }

    async def run_once(self) -> float:
        await asyncio.gather(*(self._run_inbox(inbox) for inbox in self._inboxes.values()))
        return self._period_s

    async def _run_inbox(self, inbox: InboxSettings) -> None:
        """Dispose of the ended sources of one inbox. Each inbox has a deadline of its own."""
        threads = self._threads[inbox.name]
        try:
            if inbox.name not in self._restored and await threads.run_within(
                SCAN_S, restore_aside, inbox.path
            ):
                self._restored.add(inbox.name)
            if inbox.sources == "keep" and not inbox.failed:
                return
            sightings = await threads.run_within(SCAN_S, self._scan_inbox, inbox)
        except TimeoutError:
            return  # the inbox monitor reports it
        for ended in await self._ledger.read(find_ended_jobs, inbox.name, sightings):
            await self.dispose_source(inbox.name, ended, again=True)

    async def dispose_source(self, name: str, ended: EndedJob, *, again: bool = False) -> None:
        """Dispose of a source as the inbox's settings say.

        It is kept if the settings say so, if another version has replaced it, or if its transcript
        is incomplete. `again`: do not publish once more that it is kept.
        """
        inbox = self._inboxes[name]
        folder = (self._archives if ended.failure is None else self._failed).get(name)
        if not folder and (ended.failure is not None or inbox.sources != "delete"):
            return
        path = ended.path.decode("utf-8", "backslashreplace")
        try:
            done = await self._threads[name].run_within(
                MOVE_S, self._dispose_blocking, inbox.path, ended, folder
            )
        except (SpeakeasyError, OSError) as error:
            self._publish_event(SourceStuck(path=path, error=str(error)), ended)
        else:
            if not isinstance(done, Kept):
                self._publish_event(SourcePutAway(path=path, done=done), ended)
            elif done.reason and not again:
                self._publish_event(SourceKept(path=path, reason=done.reason), ended)

    def _dispose_blocking(
        self, inbox: Path, ended: EndedJob, folder: SourceFolder | None
    ) -> str | Kept:
        """Move a source to a folder, or delete it. Blocks.

        Returns what was done as a text, or why it was kept.
        """
        if kinds := ended.warnings & (INCOMPLETE if folder else PARTIAL):
            return Kept(f"its transcript is not complete: {', '.join(sorted(kinds))}")
        if folder:
            moved = folder.move_source(inbox, ended, note=self._build_note(ended))
            return moved if isinstance(moved, Kept) else f"moved to {moved}"
        return delete_source(inbox, ended) or "deleted"

    def _build_note(self, ended: EndedJob) -> str:
        if ended.failure is None:
            return ""
        code, error = ended.failure
        return NOTE.format(
            job_id=ended.job_id, code=code, error=error, now=format_utc(self._clock.utc())
        )

    def _publish_event(self, payload: Payload, ended: EndedJob) -> None:
        at = format_utc(self._clock.utc())
        self._hub.publish(Event.of(payload, at=at, job_id=ended.job_id))

    def _scan_inbox(self, inbox: InboxSettings) -> list[Sighting]:
        try:
            return list(
                scan_inbox(inbox.path, self._rules[inbox.name], on_error=lambda _path, _error: None)
            )
        except InboxMissing:  # the inbox monitor reports it
            return []
