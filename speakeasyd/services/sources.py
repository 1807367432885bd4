"""Puts sources away once their job has ended: into the archive or the failed folder, or off the disk."""

import asyncio

from speakeasyd.clock import Clock, iso
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.job import Ended, Sighting
from speakeasyd.domain.transcript import INCOMPLETE, PARTIAL
from speakeasyd.errors import SpeakeasyError
from speakeasyd.events import Event, Hub
from speakeasyd.inbox.rules import Rules
from speakeasyd.inbox.scanner import InboxMissing, scan
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.outbox.sources import Kept, Shelf, discard, restore_aside
from speakeasyd.services.service import Service

NOTE = """\
This file could not be transcribed.

What happened: {error}
Error code:    {code} (docs/errors.md says what to do)
Job:           {job_id}
When:          {now}

To try again, put the file into the inbox once more.
"""


class Sources(Service):
    """Never fails a job: a source that cannot be put away stays where it is, and the next round tries again.

    A round compares what lies in the inboxes with the ledger, so it also finds what a crash has left.
    """

    def __init__(self, *, ledger: Ledger, settings: Settings, hub: Hub, clock: Clock) -> None:
        super().__init__()
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._period_s = settings.watch.rescan_s
        self._inboxes = {inbox.name: inbox for inbox in settings.inboxes}
        self._rules = {inbox.name: Rules.for_inbox(settings, inbox) for inbox in settings.inboxes}
        self._archives = {
            inbox.name: Shelf(inbox.archive)
            for inbox in settings.inboxes
            if inbox.archive and inbox.sources == "archive"
        }
        self._restored = False
        self._failed = {inbox.name: Shelf(inbox.failed) for inbox in settings.inboxes if inbox.failed}

    async def run_once(self) -> float:
        for inbox in self._inboxes.values():
            if inbox.sources != "keep" or inbox.failed:
                if not self._restored:
                    await asyncio.to_thread(restore_aside, inbox.path)
                sightings = await asyncio.to_thread(self._scan, inbox)
                for ended in await self._ledger.ended(inbox.name, sightings):
                    await self.put_away(inbox.name, ended, again=True)
        self._restored = True
        return self._period_s

    async def put_away(self, name: str, ended: Ended, *, again: bool = False) -> None:
        """As the inbox's settings say. It is kept if they say so, if another version has taken its place, or if there
        is more in it than in its transcript. `again`: it has been told before that it is kept.
        """
        try:
            done = await asyncio.to_thread(self._put_away, self._inboxes[name], ended)
        except (SpeakeasyError, OSError) as error:
            self._tell("source.stuck", ended, error=str(error))
        else:
            if not isinstance(done, Kept):
                self._tell("source.put_away", ended, done=done)
            elif done.reason and not again:
                self._tell("source.kept", ended, reason=done.reason)

    def _put_away(self, inbox: InboxSettings, ended: Ended) -> str | Kept:
        """What was done, in words. Blocks."""
        deletes = ended.failure is None and inbox.sources == "delete"
        shelf = (self._archives if ended.failure is None else self._failed).get(inbox.name)
        if not deletes and not shelf:
            return Kept()
        if kinds := ended.warnings & (PARTIAL if deletes else INCOMPLETE):
            return Kept(f"its transcript has not all of it: {', '.join(sorted(kinds))}")
        if shelf:
            taken = shelf.take(inbox.path, ended, note=self._why(ended))
            return taken if isinstance(taken, Kept) else f"moved to {taken}"
        return discard(inbox.path, ended) or "deleted"

    def _why(self, ended: Ended) -> str:
        if ended.failure is None:
            return ""
        code, error = ended.failure
        return NOTE.format(job_id=ended.job_id, code=code, error=error, now=iso(self._clock.utc()))

    def _tell(self, kind: str, ended: Ended, **data: object) -> None:
        said = {"path": ended.path.decode("utf-8", "backslashreplace"), **data}
        self._hub.publish(Event(kind=kind, at=iso(self._clock.utc()), job_id=ended.job_id, data=said))

    def _scan(self, inbox: InboxSettings) -> list[Sighting]:
        try:
            return list(scan(inbox.path, self._rules[inbox.name], on_error=lambda _path, _error: None))
        except InboxMissing:  # the lookout tells
            return []
