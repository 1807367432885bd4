"""Pauses of the queue and their causes: full disk, unmounted folder, failed device, user."""

import asyncio
import logging
from collections.abc import Mapping

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.event_payloads import PauseChange, QueuePaused, QueueResumed
from speakeasyd.domain.pausing import (
    LEDGER_PAUSE,
    PauseCause,
    describe_pause,
    read_pauses,
)
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.errors import LedgerError, LedgerUnwritable
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import load_state, store_state

log = logging.getLogger(__name__)


class Pauses:
    """The active pauses by cause. Jobs that a pause covers wait; no attempt is used up."""

    def __init__(self, *, ledger: Ledger, hub: EventHub, clock: Clock) -> None:
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._reasons: dict[PauseCause, str] = {}
        self._kept: dict[PauseCause, str] = {}  # stored for the next daemon, without effect here
        self._changing = asyncio.Lock()  # keeps the order of the changes in the ledger

    def __contains__(self, cause: PauseCause) -> bool:
        return cause in self._reasons

    @property
    def reasons(self) -> Mapping[PauseCause, str]:
        """Reasons by cause."""
        return self._reasons

    @property
    def yields_machine(self) -> bool:
        """Return whether running work must be released too, to leave the machine to others."""
        return any(cause.kind.yields_machine for cause in self._reasons)

    async def restore_manual_pause(self, *, obeyed: bool) -> None:
        """Restore a user's pause after a restart; other causes are detected again.

        Not `obeyed`: it has no effect here, and stays stored for the next daemon.
        """
        stored = read_pauses(await self._ledger.read(load_state, StateKey.PAUSES))
        manual = {cause: why for cause, why in stored.items() if not cause.kind.ends_by_itself}
        self._reasons, self._kept = (manual, {}) if obeyed else ({}, manual)
        await self._store_reasons(self._reasons)

    async def begin_pause(self, cause: PauseCause, reason: str) -> None:
        """Begin a pause, or change its reason. Does nothing if cause and reason are unchanged."""
        if cause == LEDGER_PAUSE and cause in self._reasons:
            return  # the error text may differ from try to try
        if self._reasons.get(cause) != reason:
            self._reasons[cause] = reason
            await self._publish_change(QueuePaused.of(cause, reason))

    async def end_pause(self, cause: PauseCause) -> None:
        """End a pause if it is active. That of the ledger ends only after a successful write."""
        reason = self._reasons.get(cause) or self._kept.get(cause)
        if reason is None or (cause == LEDGER_PAUSE and not await self._can_write()):
            return
        if self._reasons.pop(cause, None) or self._kept.pop(cause, None):
            await self._publish_change(QueueResumed.of(cause, reason))

    async def _can_write(self) -> bool:
        """Test the ledger with a real write: a full disk still grants the lock."""
        try:
            await self._ledger.write(
                store_state, StateKey.LEDGER_WRITTEN_AT, format_utc(self._clock.utc())
            )
        except LedgerUnwritable:
            return False
        return True

    async def begin_durably(self, cause: PauseCause, reason: str) -> None:
        """Begin a pause once the ledger has stored it. Raises LedgerError; nothing changes then."""
        async with self._changing:
            await self._store_reasons(self._reasons | {cause: reason})
            self._reasons[cause] = reason
            self._publish_event(QueuePaused.of(cause, reason))

    async def end_durably(self, cause: PauseCause) -> None:
        """End a pause once the ledger has stored it. Raises LedgerError; nothing changes then."""
        async with self._changing:
            if reason := self._reasons.get(cause):
                remaining = {key: value for key, value in self._reasons.items() if key != cause}
                await self._store_reasons(remaining)
                self._reasons.pop(cause, None)
                self._publish_event(QueueResumed.of(cause, reason))

    async def _store_reasons(self, reasons: Mapping[PauseCause, str]) -> None:
        stored = self._kept | dict(reasons)
        rows = [describe_pause(cause, reason) for cause, reason in stored.items()]
        await self._ledger.write(store_state, StateKey.PAUSES, rows)

    def _publish_event(self, change: PauseChange) -> None:
        self._hub.publish(Event.of(change, at=format_utc(self._clock.utc())))

    async def _publish_change(self, change: PauseChange) -> None:
        self._publish_event(change)
        try:
            async with self._changing:
                await self._store_reasons(self._reasons)
        except LedgerError:  # the subscribers of the hub, such as the log, have the event anyway
            log.debug("cannot store the pause %s in the ledger", change.cause)
