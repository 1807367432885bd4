"""Current failures by name (services that raise, jobs that stall), for status, health, metrics."""

import logging
from collections.abc import Mapping

from speakeasyd.clock import Clock, format_utc
from speakeasyd.domain.event_payloads import FailureBegun, FailureChange, FailureEnded
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import store_state

log = logging.getLogger(__name__)


class ServiceFailures:
    """The current failures. Lives on the main loop. An entry stays until that name works again."""

    def __init__(self, *, ledger: Ledger, hub: EventHub, clock: Clock) -> None:
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._texts: dict[str, str] = {}
        self._saved: dict[str, str] | None = None

    @property
    def texts(self) -> Mapping[str, str]:
        """The error texts by name."""
        return self._texts

    async def begin_failure(self, name: str, text: str) -> None:
        """Record a failure. Publishes an event for the first one of a name."""
        if name not in self._texts:
            self._publish_change(FailureBegun(name=name, error=text))
        self._texts[name] = text
        await self.save()

    async def end_failure(self, name: str) -> None:
        """Record that a name works. Publishes an event if it had failed."""
        if text := self._texts.pop(name, None):
            self._publish_change(FailureEnded(name=name, error=text))
        await self.save()

    async def save(self) -> None:
        """Store the failures in the ledger. Never raises: the next call repeats a failed write."""
        if self._texts == self._saved:
            return
        texts = dict(self._texts)
        try:
            await self._ledger.write(store_state, StateKey.FAILURES, texts)
        except Exception as error:  # noqa: BLE001 - reporting a failure must not fail
            log.debug("cannot store the current failures in the ledger: %s", error)
        else:
            self._saved = texts

    def _publish_change(self, change: FailureChange) -> None:
        self._hub.publish(Event.of(change, at=format_utc(self._clock.utc())))
