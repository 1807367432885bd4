"""The composition root: builds the services from the settings; starts, reloads and stops them."""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from typing import Any, Self

from speakeasyd import __version__, logs
from speakeasyd.clock import Clock, SystemClock, format_utc
from speakeasyd.config import Settings, apply_live_changes, compare_settings
from speakeasyd.domain.drained import Drained
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import ConfigRefused, ConfigReloaded, Payload
from speakeasyd.domain.pausing import PERSON_PAUSE
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import ConfigError
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.deliveries import find_newest_seq
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import (
    close_abandoned_incidents,
    forget_waiting_files,
    release_stale_claims,
    shorten_waits,
    store_state,
)
from speakeasyd.ledger.readonly import LEDGER
from speakeasyd.ledger.uploads import load_unfinished_uploads
from speakeasyd.loop import MainLoop
from speakeasyd.recorder.recorder import Recorder, publish_to_hub
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.draining import Draining
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.heartbeat import Heartbeat
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.reloadable import ReloadableServices
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.services.watchdog import StallWatchdog
from speakeasyd.system import notify, signals
from speakeasyd.thread_group import ThreadGroup
from speakeasyd.workers.early_worker import EarlyWorker
from speakeasyd.workers.local_pool import LocalPool

log = logging.getLogger(__name__)

RECORDING_S = 10.0  # seconds for a recording to be finished when the daemon stops

OnEvent = Callable[[Event], None]
ReloadSettings = Callable[[], Settings]


class Daemon:
    """All components of a daemon. `run` or `run_until_drained` starts and stops them, once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        hub: EventHub,
        settings: Settings,
        clock: Clock,
        wait_for_fixes: bool,
        on_event: OnEvent | None,
        reload_settings: ReloadSettings | None,
        early: EarlyWorker | None,
    ) -> None:
        """Build the components; see `open`."""
        self._ledger = ledger
        self._hub = hub
        self._clock = clock
        self._wait_for_fixes = wait_for_fixes
        self._on_event = on_event
        self._reload_settings = reload_settings
        self._stack = AsyncExitStack()
        self._stop_requested = asyncio.Event()
        self._reload_requested = asyncio.Event()
        self._defect: BaseException | None = None  # that ended a background task

        self._main_loop = MainLoop(asyncio.get_running_loop())
        self._pauses = Pauses(ledger=ledger, hub=hub, clock=clock)
        self._failures = ServiceFailures(ledger=ledger, hub=hub, clock=clock)
        self._pool = build_pool(settings, main_loop=self._main_loop, clock=clock, early=early)
        self._sources = SourceDisposal(ledger=ledger, settings=settings, hub=hub, clock=clock)
        self._outboxes = Outboxes(inboxes=settings.inboxes, pauses=self._pauses)
        self._heartbeat = Heartbeat(ledger=ledger, pauses=self._pauses, pool=self._pool)
        self._dispatcher = Dispatcher(
            ledger=ledger,
            pool=self._pool,
            publisher=Publisher(ledger=ledger, outboxes=self._outboxes, sources=self._sources),
            outboxes=self._outboxes,
            pauses=self._pauses,
            incidents=Incidents(ledger=ledger),
            settings=settings,
            clock=clock,
            wait_for_fixes=wait_for_fixes,
        )
        self._watchdog = StallWatchdog(
            ledger=ledger,
            pool=self._pool,
            pauses=self._pauses,
            failures=self._failures,
            settings=settings.recovery,
            clock=clock,
            abandon_claim=self._dispatcher.abandon_claim,
        )
        self._reloadable = ReloadableServices(
            settings=settings,
            ledger=ledger,
            hub=hub,
            pauses=self._pauses,
            failures=self._failures,
            pool=self._pool,
            main_loop=self._main_loop,
            clock=clock,
            wait_for_fixes=wait_for_fixes,
        )

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        wait_for_fixes: bool = True,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
        reload_settings: ReloadSettings | None = None,
        early: EarlyWorker | None = None,
    ) -> Self:
        """Open the ledger and build the daemon over it, which closes the ledger when it has run.

        `wait_for_fixes`: jobs wait for what only a person can fix; otherwise they fail. `on_event`:
        called with every event. `reload_settings`: loads the configuration again; without it, a
        reload changes nothing. `early`: a worker that runs already. Raises LedgerError.
        """
        clock = clock or SystemClock()
        hub = EventHub()
        ledger = await Ledger.open(
            settings.state / LEDGER, clock=clock, hub=hub, boot_id=uuid.uuid4().hex
        )
        try:
            return cls(
                ledger=ledger,
                hub=hub,
                settings=settings,
                clock=clock,
                wait_for_fixes=wait_for_fixes,
                on_event=on_event,
                reload_settings=reload_settings,
                early=early,
            )
        except BaseException:
            await ledger.close()
            raise

    @property
    def _settings(self) -> Settings:
        return self._reloadable.settings

    async def run(self) -> int:
        """Run until a stop is requested. Returns the exit status.

        Raises what ended a background task, after the services have stopped.
        """
        async with self._stack:
            await self._start_services()
            await self._stop_requested.wait()
            notify.notify_stopping()
        self._raise_defect()
        return 0

    async def run_until_drained(self) -> Drained:
        """Run until every readable file has a job and every job has ended.

        Also returns when a stop is requested or when no progress is possible. Raises as `run`.
        """
        draining = Draining(
            settings=self._settings,
            ledger=self._ledger,
            pool=self._pool,
            dispatcher=self._dispatcher,
            intake=self._reloadable.intake,
            pauses=self._pauses,
            failures=self._failures,
            clock=self._clock,
        )
        async with self._stack:
            began = await self._start_services()
            await draining.wait(self._stop_requested)
            hindrances = await draining.find_hindrances()
            if await draining.is_drained():
                await self._sources.run_once()
        self._raise_defect()
        return draining.build_account(
            hindrances, began=began, stopped=self._stop_requested.is_set()
        )

    # --- start; services stop in reverse order: first no new files, then the work, last the ledger

    async def _start_services(self) -> int:
        """Start everything. Returns the number of the newest event of earlier daemons."""
        self._start_background_task("events", self._handle_events())
        self._stack.push_async_callback(self._ledger.close)
        self._stack.push_async_callback(self._main_loop.close)
        began = await self._ledger.read(find_newest_seq)
        await self._recover_ledger()
        await self._failures.save()  # clears the failures of an earlier daemon
        await self._pauses.restore_manual_pause(obeyed=self._wait_for_fixes)
        self._stack.enter_context(
            signals.install_handlers(
                on_stop=self._request_stop,
                on_force=self._pool.kill,
                on_reload=self._reload_requested.set,
            )
        )
        await self._outboxes.prepare_folders()
        await self._pool.start(self._dispatcher.enqueue_event)
        for service in (
            self._sources,
            self._outboxes,
            self._heartbeat,
            self._dispatcher,
            self._watchdog,
        ):
            self._stack.push_async_callback(service.stop)
            await service.start(self._failures)
        self._stack.push_async_callback(self._reloadable.stop)
        await self._reloadable.start()
        if self._wait_for_fixes and self._settings.server.enabled:
            await self._start_server()
        self._start_background_task("reloads", self._run_reloads())
        notify.notify_ready()
        return began

    async def _recover_ledger(self) -> None:
        """Release what an earlier daemon held, and record this one. Raises LedgerError."""
        await self._ledger.write(release_stale_claims)
        await self._ledger.write(close_abandoned_incidents)
        await self._ledger.write(forget_waiting_files)
        await self._ledger.write(
            shorten_waits,
            self._settings.recovery,
            delivery_wait_s=self._settings.notify.retry_max_s,
            final_wait_s=self._settings.watch.incomplete_max_s,
        )
        self._reloadable.uploads.restore_interrupted(
            await self._ledger.read(load_unfinished_uploads, self._ledger.now())
        )
        started = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at": format_utc(self._clock.utc()),
        }
        await self._ledger.write(store_state, StateKey.DAEMON, started)

    async def _start_server(self) -> None:
        """Start the web server. Its libraries are optional, and slow to import.

        The workers load their models meanwhile.
        """
        try:
            serving = await asyncio.to_thread(import_module, "speakeasyd.server.service")
        except ImportError as error:
            log.info(
                "the page and the API are not available (%s): pip install 'speakeasyd[server]'",
                error,
            )
            return
        upload_inbox = self._settings.upload_inbox
        recorder = Recorder(
            folder=upload_inbox.path,
            publish=publish_to_hub(self._main_loop, self._hub),
            is_present=partial(self._reloadable.is_present, upload_inbox.name),
            spare=self._settings.state / "recordings",
        )
        self._stack.push_async_callback(_stop_recorder, recorder)
        server = serving.Server(
            current=self._reloadable.current_settings,
            ledger=self._ledger,
            hub=self._hub,
            pauses=self._pauses,
            failures=self._failures,
            pool=self._pool,
            recorder=recorder,
            admit=self._reloadable.admit_file,
            is_present=self._reloadable.is_present,
            under_way=self._reloadable.uploads,
        )
        self._stack.push_async_callback(server.stop)
        await server.start()

    # --- while it runs

    def _request_stop(self) -> None:
        self._stop_requested.set()
        grace_s = self._settings.recovery.stop_grace_s
        log.info(
            "stopping: finishing the chunks in progress, for %g s at most; "
            "press Ctrl-C again to stop at once",
            grace_s,
        )

    async def _handle_events(self) -> None:
        """Pass every event to `on_event`, and carry out requests of users, which are events too."""
        with self._hub.subscribe(backlog=None) as events:
            async for event in events:
                if self._on_event:
                    self._on_event(event)
                match event.kind:
                    case EventKind.JOB_ADDED | EventKind.QUEUE_PAUSED | EventKind.QUEUE_RESUMED:
                        self._dispatcher.wake()
                    case EventKind.RELOAD_REQUESTED:
                        self._reload_requested.set()
                    case EventKind.PAUSE_REQUESTED:
                        await self._pauses.begin_pause(PERSON_PAUSE, "paused by a person")
                    case EventKind.RESUME_REQUESTED:
                        await self._pauses.end_pause(PERSON_PAUSE)
                    case EventKind.STOP_REQUESTED:
                        self._request_stop()

    async def _run_reloads(self) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            notify.notify_reloading()
            try:
                wanted = self._reload_settings() if self._reload_settings else self._settings
            except ConfigError as error:
                self._publish_event(ConfigRefused(error=str(error), hint=error.hint))
            else:
                await self._apply_settings(wanted)
            notify.notify_ready()

    async def _apply_settings(self, wanted: Settings) -> None:
        """Apply the settings that can change at run time."""
        changes = compare_settings(self._settings, wanted)
        if changes.now:
            logs.set_level(wanted.log)
            await self._reloadable.replace_services(apply_live_changes(self._settings, wanted))
        reloaded = ConfigReloaded(now=list(changes.now), restart=list(changes.restart))
        self._publish_event(reloaded)

    def _publish_event(self, payload: Payload) -> None:
        self._hub.publish(Event.of(payload, at=format_utc(self._clock.utc())))

    # --- background tasks: one that ends by itself is a defect, and ends the daemon

    def _start_background_task(self, name: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._on_background_task_done)
        self._stack.push_async_callback(asyncio.wait, {task})
        self._stack.callback(task.cancel)

    def _on_background_task_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        self._defect = task.exception() or RuntimeError("it ended by itself")
        log.critical("the task %r failed; the daemon stops", task.get_name(), exc_info=self._defect)
        self._stop_requested.set()

    def _raise_defect(self) -> None:
        if self._defect:
            raise self._defect


def build_pool(
    settings: Settings, *, main_loop: MainLoop, clock: Clock, early: EarlyWorker | None
) -> WorkerPool:
    """Return the pool of workers that the settings ask for."""
    if settings.workers.pool == "ray":
        from speakeasyd.cluster.ray_pool import RayPool  # noqa: PLC0415 - the start is quicker without

        return RayPool(
            settings=settings.workers,
            cluster=settings.cluster,
            recovery=settings.recovery,
            state_dir=settings.state,
            folders={inbox.name: inbox.path for inbox in settings.inboxes},
            main_loop=main_loop,
            clock=clock,
            model=settings.options.model,
        )
    return LocalPool(
        settings=settings.workers,
        recovery=settings.recovery,
        state_dir=settings.state,
        folders={inbox.name: inbox.path for inbox in settings.inboxes},
        main_loop=main_loop,
        clock=clock,
        early=early,
    )


async def _stop_recorder(recorder: Recorder) -> None:
    """Finish a recording. If its folder does not answer, the next recording publishes it."""
    try:
        await ThreadGroup("recorder stop").run_within(RECORDING_S, recorder.stop)
    except TimeoutError:
        log.warning("the recording could not be finished: its folder does not answer")
