"""The composition root: builds the parts from the settings, joins them, owns start, drain and stop."""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from speakeasyd import __version__
from speakeasyd.clock import Clock, SystemClock, iso
from speakeasyd.config import Settings
from speakeasyd.events import Event, Hub
from speakeasyd.host import notify, signals
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.migrate import migrate
from speakeasyd.loop import MainLoop
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.heartbeat import Heartbeat
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.intake import Intake
from speakeasyd.services.janitor import Janitor
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.sources import Sources
from speakeasyd.workers.pool import Pool

log = logging.getLogger(__name__)

LOOK_S = 0.2  # seconds between looks at whether everything is done

UNFINISHED = "SELECT count(*) AS n FROM jobs WHERE status IN ('pending', 'processing')"
FAILED_SINCE = "SELECT count(*) AS n FROM jobs WHERE status = 'failed' AND finished_at >= :began"


def main(settings: Settings, *, once: bool = False, on_event: Callable[[Event], None] | None = None) -> int:
    """Run until stopped, or with `once` until the inboxes are drained. Returns the exit status.

    Takes the ledger's lock and migrates it before there is a loop. Raises StartError or LedgerError if it cannot start.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    with LedgerLock(settings.state):
        migrate(settings.state / "ledger.db")
        return asyncio.run(Daemon(settings=settings, patient=not once, on_event=on_event).run(once=once))


class Daemon:
    """`on_event` hears every event, on the loop: it must be quick."""

    def __init__(
        self,
        *,
        settings: Settings,
        patient: bool = True,
        clock: Clock | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._settings = settings
        self._patient = patient
        self._clock = clock or SystemClock()
        self._on_event = on_event
        self._leave = asyncio.Event()
        self.hub = Hub()

    async def run(self, *, once: bool = False) -> int:
        """0: all is well; 1: with `once`, some files failed."""
        began = iso(self._clock.utc())
        async with AsyncExitStack() as stack:
            ledger = await self._open_ledger(stack)
            intake, dispatcher, pool = await self._start_parts(stack, ledger)
            stack.enter_context(signals.install(on_stop=self._leave.set, on_force=pool.kill))
            notify.ready()
            if once:
                await self._drained_or_told_to_leave(ledger, intake, dispatcher)
            else:
                await self._leave.wait()
            notify.stopping()
            failed = await ledger.rows(FAILED_SINCE, {"began": began})
        return int(once and failed[0]["n"] != 0)

    async def _open_ledger(self, stack: AsyncExitStack) -> Ledger:
        if self._on_event:
            await self._in_background(stack, self._pass_events_on(self._on_event))
        path = self._settings.state / "ledger.db"
        ledger = await Ledger.open(path, clock=self._clock, hub=self.hub, boot_id=uuid.uuid4().hex)
        stack.push_async_callback(ledger.close)
        await ledger.recover()
        started = {"pid": os.getpid(), "version": __version__, "started_at": iso(self._clock.utc())}
        await ledger.set_state("daemon", started)
        return ledger

    async def _start_parts(self, stack: AsyncExitStack, ledger: Ledger) -> tuple[Intake, Dispatcher, Pool]:
        """They are stopped in the reverse order: first no new files, then the work, at last the ledger."""
        settings, clock = self._settings, self._clock
        main_loop = MainLoop(asyncio.get_running_loop())
        pauses = Pauses(ledger=ledger, hub=self.hub, clock=clock)
        pool = Pool(
            settings=settings.workers,
            recovery=settings.recovery,
            state_dir=settings.state,
            main_loop=main_loop,
            clock=clock,
            on_report=lambda worker, report: dispatcher.hear((worker, report)),
            on_lost=lambda lost: dispatcher.hear(lost),  # noqa: PLW0108 - there is no dispatcher yet
            on_device=lambda change: dispatcher.hear(change),  # noqa: PLW0108
            on_room=lambda: dispatcher.wake(),  # noqa: PLW0108
        )
        sources = Sources(ledger=ledger, settings=settings, hub=self.hub, clock=clock)
        publisher = Publisher(ledger=ledger, inboxes=settings.inboxes, sources=sources)
        dispatcher = Dispatcher(
            ledger=ledger,
            pool=pool,
            publisher=publisher,
            pauses=pauses,
            incidents=Incidents(ledger=ledger),
            settings=settings,
            clock=clock,
            patient=self._patient,
        )
        intake = Intake(settings=settings, ledger=ledger, pauses=pauses, main_loop=main_loop, clock=clock)
        heartbeat = Heartbeat(ledger=ledger, pool=pool, healthy=lambda: True)
        janitor = Janitor(ledger=ledger, settings=settings.ledger, clock=clock)
        await publisher.prepare()
        await pool.start()
        for service in (janitor, sources, heartbeat, dispatcher, intake):
            stack.push_async_callback(service.stop)
            await service.start()
        return intake, dispatcher, pool

    async def _drained_or_told_to_leave(self, ledger: Ledger, intake: Intake, dispatcher: Dispatcher) -> None:
        leaving = asyncio.create_task(self._leave.wait())
        drained = asyncio.create_task(_drained(ledger, intake, dispatcher))
        done, pending = await asyncio.wait({leaving, drained}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*done)

    async def _pass_events_on(self, on_event: Callable[[Event], None]) -> None:
        with self.hub.subscribe() as events:
            async for event in events:
                on_event(event)

    @staticmethod
    async def _in_background(stack: AsyncExitStack, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        stack.push_async_callback(asyncio.wait, {task})
        stack.callback(task.cancel)


async def _drained(ledger: Ledger, intake: Intake, dispatcher: Dispatcher) -> None:
    """Until every file that was there has a job and every job has ended."""
    while not (intake.idle and dispatcher.idle and (await ledger.rows(UNFINISHED))[0]["n"] == 0):
        await asyncio.sleep(LOOK_S)
