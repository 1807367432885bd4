"""Tells others what happened: an event that they want becomes a delivery in the ledger, which is tried until it ends.

What happened while the daemon was killed is told by the next one: it goes by the ledger's events, not by the hub's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import NotifySettings, Settings
from speakeasyd.domain.device_health import OPEN
from speakeasyd.domain.notifications import DeliveryFailed, DeliverySucceeded, compute_next_try
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.services.delivery_targets import DeliveryTarget, build_targets
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.incidents import ACTIONS
from speakeasyd.services.service import Service

GATHER_S = 0.2  # seconds in which news gathers, so that one look finds it all
LOOK_S = 10.0  # seconds between looks at what no event has woken us for
QUIET_S = 5.0  # seconds that nothing more must come to a batch before it is told of as completed
STRIDE = 5000  # events after which is noted how far has been looked, though none was wanted

SOURCES = frozenset({"job.completed", "job.failed", "batch.completed", "incident.opened"})
_OPENING = frozenset(ACTIONS[state] for state in OPEN)


class Notifier(Service):
    """For other settings stop it and start a new one: the ledger knows how far has been told."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        hub: EventHub,
        clock: Clock,
        to: Sequence[DeliveryTarget] | None = None,
    ) -> None:
        """`to`: whom to tell, instead of those in the settings."""
        super().__init__()
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._targets = build_targets(settings, clock) if to is None else to
        self.couriers = [
            DeliverySender(target=target, settings=settings.notify, ledger=ledger, clock=clock)
            for target in self._targets
        ]
        self._seq: int | None = None  # up to this event all has been enlisted
        self._noted = 0  # as the ledger has it
        self._until = ""  # batches that were done by then have been told of
        self._hearing: asyncio.Task[None] | None = None

    async def start(self, failures: ServiceFailures | None = None) -> None:
        self._hearing = asyncio.create_task(self._wake_on_events(), name="Notifier hears")
        for courier in self.couriers:
            await courier.start(failures)
        await super().start(failures)

    async def stop(self) -> None:
        await super().stop()
        if self._hearing:
            self._hearing.cancel()
        for courier in self.couriers:
            await courier.stop()

    async def run_once(self) -> float:
        if self._seq is None:
            self._seq, self._until = await self._ledger.load_notification_cursor()
            await self._enqueue_deliveries(
                [], self._seq
            )  # else a first run that is killed would have no beginning
        await self._announce_batches(self._seq)
        newest = await self._ledger.find_newest_event()
        while self._seq < newest:
            self._seq = await self._process_events(self._seq, newest)
        return LOOK_S

    async def _wake_on_events(self) -> None:
        """Makes things quicker, no more: should the hub drop us, the next look finds what we missed."""
        with self._hub.subscribe(backlog=None) as events:
            async for event in events:
                if event.kind in SOURCES and self._targets:
                    self.wake()
                    await asyncio.sleep(GATHER_S)

    async def _announce_batches(self, seq: int) -> None:
        """Batches that have become complete. More files may follow at once: those are waited for."""
        until = format_utc(self._clock.utc() - timedelta(seconds=QUIET_S))
        if self._until > format_utc(self._clock.utc()):
            self._until = until  # the clock was set back
        if until <= self._until:
            return
        if done := await self._ledger.find_finished_batches(since=self._until, until=until):
            await self._ledger.record_finished_batches(done, seq=seq, until=until)
        self._until = until

    async def _process_events(self, after: int, upto: int) -> int:
        """Enlist what targets want of the next events. Returns up to which."""
        events = (
            await self._ledger.load_events_with_jobs(SOURCES, after=after, upto=upto)
            if self._targets
            else []
        )
        seen = max([event.seq or 0 for event in events], default=upto)
        told = [event for event in map(_describe_event, events) if event]
        wanted = [
            (target.name, event)
            for event in told
            for target in self._targets
            if event.kind in target.kinds
        ]
        if wanted or seen - self._noted > STRIDE:
            await self._enqueue_deliveries(wanted, seen)
        return seen

    async def _enqueue_deliveries(self, wanted: Sequence[tuple[str, Event]], seq: int) -> None:
        await self._ledger.enqueue_deliveries(wanted, seq=seq, until=self._until)
        self._noted = seq
        for courier in self.couriers:
            courier.wake()


class DeliverySender(Service):
    """Brings one target what it is to be told, one after the other: a slow one holds up nobody else."""

    def __init__(
        self, *, target: DeliveryTarget, settings: NotifySettings, ledger: Ledger, clock: Clock
    ) -> None:
        super().__init__()
        self._target = target
        self._settings = settings
        self._ledger = ledger
        self._clock = clock

    @property
    def name(self) -> str:
        """Without the receiver's address: probes that know no token are told the names of what fails."""
        return f"courier {self._target.name.split()[-1]}"

    async def run_once(self) -> float | None:
        delivery = await self._ledger.find_next_delivery(self._target.name)
        if delivery is None:
            return None
        wait = (delivery.available_at - self._clock.utc()).total_seconds()
        if wait > 0:
            return wait
        match await self._target.deliver(delivery):
            case DeliverySucceeded():
                await self._ledger.mark_delivered(delivery)
            case DeliveryFailed(error=error, final=final):
                give_up = timedelta(hours=self._settings.give_up_hours)
                again = compute_next_try(
                    delivery, now=self._clock.utc(), give_up=give_up, waits=self._settings
                )
                again_at = format_utc(again) if again and not final else None
                await self._ledger.mark_delivery_failed(
                    delivery, self._target.name, error=error, again_at=again_at
                )
        return 0.0


def _describe_event(event: Event) -> Event | None:
    """As it is told; None: not worth it."""
    if event.kind != "incident.opened":
        return event
    return replace(event, kind="device.open") if event.data.get("action") in _OPENING else None
