"""Why work stands still, for as long as it does: a full disk, an unmounted folder, a device that waits for a person."""

import asyncio
import logging
from collections.abc import Mapping

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.pausing import PERSON
from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.overview import LEDGER_PAUSE

LEAVING = (PERSON, "hours", "memory", "vram")
"""The causes for which work under way is given back as well, to go on later where it was."""

log = logging.getLogger(__name__)


class Pauses:
    """Named reasons. While there is one that covers it, work waits; no attempt is used up."""

    def __init__(self, *, ledger: Ledger, hub: EventHub, clock: Clock) -> None:
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._changing = asyncio.Lock()  # so that the ledger is told of the changes in their order

    def __contains__(self, cause: str) -> bool:
        return cause in self._reasons

    @property
    def reasons(self) -> Mapping[str, str]:
        """By cause."""
        return self._reasons

    @property
    def yields_machine(self) -> bool:
        """Whether the machine is to be left to others."""
        return any(cause in self._reasons for cause in LEAVING)

    async def restore_manual_pause(self) -> None:
        """After a restart: a person's pause holds until a person ends it; every other cause is found anew."""
        kept = (await self._ledger.load_state("pauses") or {}).get(PERSON)
        self._reasons = {PERSON: kept} if kept else {}
        await self._ledger.store_state("pauses", self._reasons)

    async def begin_pause(self, cause: str, reason: str) -> None:
        """Say it once: the same cause with the same reason again changes nothing."""
        if cause == LEDGER_PAUSE and cause in self._reasons:
            return  # each try words it in its own way
        if self._reasons.get(cause) != reason:
            self._reasons[cause] = reason
            await self._publish_change("queue.paused", cause, reason)

    async def end_pause(self, cause: str) -> None:
        reason = self._reasons.get(cause)
        if reason is None or (cause == LEDGER_PAUSE and not await self._can_write()):
            return
        if self._reasons.pop(cause, None):
            await self._publish_change("queue.resumed", cause, reason)

    async def _can_write(self) -> bool:
        """By a real write: a disk that is full still gives the lock."""
        try:
            await self._ledger.store_state("ledger_written_at", format_utc(self._clock.utc()))
        except LedgerUnwritable:
            return False
        return True

    async def begin_durably(self, cause: str, reason: str) -> None:
        """Raises LedgerError where the ledger cannot keep it: then nothing has changed."""
        async with self._changing:
            await self._ledger.store_state("pauses", self._reasons | {cause: reason})
            self._reasons[cause] = reason
            self._publish("queue.paused", cause, reason)

    async def end_durably(self, cause: str) -> None:
        """Raises LedgerError where the ledger cannot keep it: then nothing has changed."""
        async with self._changing:
            if reason := self._reasons.get(cause):
                left = {other: why for other, why in self._reasons.items() if other != cause}
                await self._ledger.store_state("pauses", left)
                self._reasons.pop(cause, None)
                self._publish("queue.resumed", cause, reason)

    def _publish(self, kind: str, cause: str, reason: str) -> None:
        self._hub.publish(
            Event(
                kind=kind, at=format_utc(self._clock.utc()), data={"cause": cause, "reason": reason}
            )
        )

    async def _publish_change(self, kind: str, cause: str, reason: str) -> None:
        self._publish(kind, cause, reason)
        try:
            async with self._changing:
                await self._ledger.store_state("pauses", self._reasons)
        except (
            LedgerError
        ):  # when the ledger is the reason, the hub's subscribers (the log) still hear of it
            log.debug("the ledger cannot note the pause %r", cause)
