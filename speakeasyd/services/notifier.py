"""Notifications: events that a target wants become deliveries, which are retried until they end.

It reads the ledger's events, not those of the hub: events from before a crash are delivered by the
next daemon.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import NotifySettings, Settings
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.incidents import DEVICE_UNAVAILABLE
from speakeasyd.domain.notifications import (
    DeliveryFailed,
    DeliverySucceeded,
    Notification,
    NotificationKind,
    compute_next_try,
)
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.deliveries import (
    enqueue_deliveries,
    find_finished_batches,
    find_newest_seq,
    find_next_delivery,
    load_cursor,
    load_events_with_jobs,
    mark_delivered,
    mark_delivery_failed,
    record_finished_batches,
)
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.services.delivery_targets import DeliveryTarget, build_targets
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.service import Service

GATHER_S = 0.2  # seconds in which events are collected before the next check
CHECK_S = 10.0  # seconds between checks without an event
QUIET_S = 5.0  # seconds without new files after which a batch is reported as completed
CURSOR_STEP = 5000  # events after which the cursor is stored although no target wanted any

_KINDS = {
    EventKind.JOB_COMPLETED: NotificationKind.JOB_COMPLETED,
    EventKind.JOB_FAILED: NotificationKind.JOB_FAILED,
    EventKind.BATCH_COMPLETED: NotificationKind.BATCH_COMPLETED,
    EventKind.INCIDENT_OPENED: NotificationKind.DEVICE_OPEN,
}
"""The events that users may be told of, and as what."""


class Notifier(Service):
    """Enqueues deliveries, and sends them by one sender per target.

    To change the settings, stop it and start a new one: the cursor is in the ledger.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        hub: EventHub,
        clock: Clock,
        targets: Sequence[DeliveryTarget] | None = None,
    ) -> None:
        """Create the notifier. `targets`: used instead of those in the settings."""
        super().__init__()
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._targets = build_targets(settings, clock) if targets is None else targets
        self.senders = [
            DeliverySender(target=target, settings=settings.notify, ledger=ledger, clock=clock)
            for target in self._targets
        ]
        self._seq: int | None = None  # number of the last event that was processed
        self._stored_seq = 0  # the same, as stored in the ledger
        self._until = ""  # time up to which completed batches were reported
        self._listener: asyncio.Task[None] | None = None

    async def start(self, failures: ServiceFailures | None = None) -> None:
        self._listener = asyncio.create_task(self._wake_on_events(), name="notifier events")
        for sender in self.senders:
            await sender.start(failures)
        await super().start(failures)

    async def stop(self) -> None:
        await super().stop()
        if self._listener:
            self._listener.cancel()
        for sender in self.senders:
            await sender.stop()

    async def run_once(self) -> float:
        if self._seq is None:
            cursor = await self._ledger.read(load_cursor, self._ledger.now())
            self._seq, self._until = cursor
            # stores the cursor, so that a first run that is killed keeps its starting point
            await self._enqueue_deliveries([], self._seq)
        await self._announce_batches(self._seq)
        newest = await self._ledger.read(find_newest_seq)
        while self._seq < newest:
            self._seq = await self._process_events(self._seq, newest)
        return CHECK_S

    async def _wake_on_events(self) -> None:
        """Wake the notifier on events. Only for speed: the periodic check finds missed events."""
        with self._hub.subscribe(backlog=None) as events:
            async for event in events:
                if event.kind in _KINDS and self._targets:
                    self.wake()
                    await asyncio.sleep(GATHER_S)

    async def _announce_batches(self, seq: int) -> None:
        """Record completed batches. A batch must be quiet for a while: more files may follow."""
        until = format_utc(self._clock.utc() - timedelta(seconds=QUIET_S))
        if self._until > format_utc(self._clock.utc()):
            self._until = until  # the clock was set back
        if until <= self._until:
            return
        if done := await self._ledger.read(find_finished_batches, since=self._until, until=until):
            await self._ledger.write(record_finished_batches, done, seq=seq, until=until)
        self._until = until

    async def _process_events(self, after: int, upto: int) -> int:
        """Enqueue deliveries for the next events. Returns the number of the last event."""
        events = (
            await self._ledger.read(load_events_with_jobs, _KINDS, after=after, upto=upto)
            if self._targets
            else []
        )
        seen = max([event.seq or 0 for event in events], default=upto)
        notifications = [note for note in map(_build_notification, events) if note]
        wanted = [
            (target.name, notification)
            for notification in notifications
            for target in self._targets
            if notification.kind in target.kinds
        ]
        if wanted or seen - self._stored_seq > CURSOR_STEP:
            await self._enqueue_deliveries(wanted, seen)
        return seen

    async def _enqueue_deliveries(
        self, wanted: Sequence[tuple[str, Notification]], seq: int
    ) -> None:
        await self._ledger.write(enqueue_deliveries, wanted, seq=seq, until=self._until)
        self._stored_seq = seq
        for sender in self.senders:
            sender.wake()


class DeliverySender(Service):
    """Sends the deliveries of one target, one after the other; slow targets delay no others."""

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
        """Unauthenticated health probes can see the names of failing services."""
        return f"delivery {self._target.label}"

    async def run_once(self) -> float | None:
        delivery = await self._ledger.read(find_next_delivery, self._target.name)
        if delivery is None:
            return None
        wait = (delivery.available_at - self._clock.utc()).total_seconds()
        if wait > 0:
            return wait
        match await self._target.deliver(delivery):
            case DeliverySucceeded():
                await self._ledger.write(mark_delivered, delivery.id)
            case DeliveryFailed(error=error, final=final):
                give_up = timedelta(hours=self._settings.give_up_hours)
                again = compute_next_try(
                    delivery,
                    now=self._clock.utc(),
                    give_up=give_up,
                    backoff_settings=self._settings,
                )
                again_at = format_utc(again) if again and not final else None
                await self._ledger.write(
                    mark_delivery_failed,
                    delivery,
                    self._target.name,
                    error=error,
                    again_at=again_at,
                )
        return 0.0


def _build_notification(event: Event) -> Notification | None:
    """Return what users are told of an event; None if it is not worth a notification."""
    if (
        event.kind is EventKind.INCIDENT_OPENED
        and event.data.get("action_kind") not in DEVICE_UNAVAILABLE
    ):
        return None
    return Notification(_KINDS[event.kind], event.at, event.seq or 0, event.data)
