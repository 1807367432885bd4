"""The composition root: builds the services from the settings; starts, reloads and stops them."""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from speakeasyd import __version__, logs
from speakeasyd.clock import Clock, SystemClock, format_utc
from speakeasyd.config import PoliteSettings, Settings, apply_live_changes, compare_settings
from speakeasyd.domain.drained import Drained, Left
from speakeasyd.domain.event_kinds import JOB_ENDED, EventKind
from speakeasyd.domain.event_payloads import ConfigRefused, ConfigReloaded, Payload
from speakeasyd.domain.pausing import (
    DEVICE_PAUSE,
    LEDGER_PAUSE,
    PERSON_PAUSE,
    PauseCause,
    PauseKind,
)
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import ConfigError, LedgerError, QueryError
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.failures import explained
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.queries import LEDGER, query_ledger
from speakeasyd.ledger.readonly import Row
from speakeasyd.loop import MainLoop
from speakeasyd.mounts import MountAnchor
from speakeasyd.recorder.recorder import Recorder, publish_to_hub
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.heartbeat import Heartbeat
from speakeasyd.services.incidents import Incidents
from speakeasyd.services.intake import Intake
from speakeasyd.services.janitor import Janitor
from speakeasyd.services.notifier import Notifier
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.resource_guard import ResourceGuard
from speakeasyd.services.source_disposal import SourceDisposal
from speakeasyd.services.watchdog import StallWatchdog
from speakeasyd.system import notify, signals
from speakeasyd.system.limits import raise_file_limit
from speakeasyd.workers.local_pool import LocalPool

log = logging.getLogger(__name__)

CHECK_S = 0.2  # seconds between checks whether everything is done

# Seconds without progress, with two checks of an outbox, after which `run_until_drained` gives up
STALLED_S = 12.0
DEVICE_STALLED_S = 120.0  # Seconds, the same while a device is probed: it often recovers

_UNFINISHED = "SELECT coalesce(sum(pending + processing), 0) AS n FROM batch_progress"
_WAITING = """
    SELECT jobs.inbox AS inbox, available_at > :now AS later, count(*) AS n FROM jobs
    WHERE status IN ('pending', 'processing') GROUP BY 1, 2
"""
_END_KINDS = ", ".join(f"'{kind}'" for kind in JOB_ENDED)
_JUST_ENDED = f"""finished_at IS NOT NULL AND id IN (
    SELECT job_id FROM events WHERE seq > :began AND kind IN ({_END_KINDS})
)"""  # noqa: S608 - constants
_ENDED = f"SELECT status, count(*) AS n FROM jobs WHERE {_JUST_ENDED} GROUP BY status"  # noqa: S608 - constants
_FAILED = f"SELECT inbox, path, error FROM jobs WHERE status = 'failed' AND {_JUST_ENDED}"  # noqa: S608 - constants
_LEFT = "SELECT inbox, path, error FROM jobs WHERE status IN ('pending', 'processing')"


def run_daemon(
    settings: Settings,
    *,
    once: bool = False,
    on_event: Callable[[Event], None] | None = None,
    reload_settings: Callable[[], Settings] | None = None,
) -> int:
    """Run until stopped, or with `once` until the inboxes are drained. Returns the exit status.

    `on_event`: called on the loop with every event; it must be quick. `reload_settings`: loads the
    configuration again. Raises StartError or LedgerError if it cannot start.
    """
    if once:
        return drain(settings, on_event=on_event).exit_status
    with _ledger_locked(settings):
        return asyncio.run(
            Daemon(settings=settings, on_event=on_event, reload_settings=reload_settings).run()
        )


def drain(settings: Settings, *, on_event: Callable[[Event], None] | None = None) -> Drained:
    """Run until nothing more can be done, or until stopped. Raises StartError or LedgerError."""
    with _ledger_locked(settings):
        return asyncio.run(
            Daemon(settings=settings, wait_for_fixes=False, on_event=on_event).run_until_drained()
        )


@contextmanager
def _ledger_locked(settings: Settings) -> Iterator[None]:
    """Lock the ledger and migrate it. Raises StartError or LedgerError."""
    raise_file_limit()
    with explained(settings.state / LEDGER):
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with LedgerLock(settings.state):
        migrate_ledger(settings.state / LEDGER)
        yield


class Daemon:
    def __init__(
        self,
        *,
        settings: Settings,
        wait_for_fixes: bool = True,
        clock: Clock | None = None,
        on_event: Callable[[Event], None] | None = None,
        reload_settings: Callable[[], Settings] | None = None,
    ) -> None:
        """Create the daemon.

        `wait_for_fixes`: jobs wait for what only a person can fix; otherwise they fail.
        """
        self._settings = settings
        self._wait_for_fixes = wait_for_fixes
        self._clock = clock or SystemClock()
        self._on_event = on_event or (lambda _event: None)
        self._reload_settings = reload_settings or (lambda: settings)
        self._stop_requested = asyncio.Event()
        self._reload_requested = asyncio.Event()
        self._stack = AsyncExitStack()
        self._anchors: dict[Path, MountAnchor] = {}
        self.hub = EventHub()

    async def run(self) -> int:
        """Run until a stop is requested. Returns the exit status."""
        async with self._stack:
            await self._start_services()
            await self._stop_requested.wait()
            notify.notify_stopping()
        return 0

    async def run_until_drained(self) -> Drained:
        """Run until every readable file has a job and every job has ended.

        Also returns when a stop is requested or when no progress is possible.
        """
        async with self._stack:
            await self._start_services()
            await self._wait_until_drained()
            fatal = self._pool.fatal_diagnosis
            pauses = dict(self._pauses.reasons)
            failing = list(self._list_failing().values())
            if fatal:
                pauses[DEVICE_PAUSE] = f"{fatal.what}. {fatal.hint}"
            if self._intake.refusal:
                pauses[LEDGER_PAUSE] = self._intake.refusal
            if await self._is_drained():  # an outbox that no job needs is not a problem
                pauses = {
                    cause: why for cause, why in pauses.items() if cause.kind is PauseKind.INBOX
                }
                failing = []
                await self._sources.run_once()
            left, untaken = self._intake.left(), self._intake.untaken
        return self._build_account(self._began, pauses, failing, left, untaken)

    async def _wait_until_drained(self) -> None:
        """Wait until all is done, a stop is requested, or no progress was possible for long."""
        stalled_since: float | None = None
        while (
            not self._stop_requested.is_set()
            and not self._pool.fatal_diagnosis
            and not await self._is_drained()
        ):
            now = self._clock.monotonic()
            stalled_since = (stalled_since or now) if await self._is_stalled() else None
            limit_s = DEVICE_STALLED_S if DEVICE_PAUSE in self._pauses else STALLED_S
            if stalled_since is not None and now - stalled_since >= limit_s:
                return
            await asyncio.sleep(CHECK_S)

    async def _is_drained(self) -> bool:
        if not (self._intake.idle and self._dispatcher.idle):
            return False
        try:
            return bool((await self._ledger.query_rows(_UNFINISHED))[0]["n"] == 0)
        except LedgerError:
            return False

    async def _is_stalled(self) -> bool:
        """Return whether all remaining work waits for something outside this daemon."""
        if self._intake.refusal or LEDGER_PAUSE in self._pauses or self._list_failing():
            return True
        if not self._intake.idle:
            return False
        if DEVICE_PAUSE in self._pauses:
            return True
        if self._dispatcher.computing:
            return False
        try:
            waiting = await self._ledger.query_rows(
                _WAITING, {"now": format_utc(self._clock.utc())}
            )
        except LedgerError:
            return True
        return all(
            self._pauses.yields_machine or self._why_held(str(row["inbox"])) for row in waiting
        )

    def _list_failing(self) -> dict[str, str]:
        """Return the failing services that block files, with their errors."""
        needed = {*self._intake.names, self._dispatcher.name}
        return {name: text for name, text in self._failures.texts.items() if name in needed}

    def _why_held(self, inbox: str) -> str:
        """Return why no job of this inbox is started; empty if jobs are started."""
        if all(inbox != configured.name for configured in self._settings.inboxes):
            return f"its inbox {inbox} is not in the configuration"
        pauses = self._pauses.reasons.items()
        return next((reason for cause, reason in pauses if cause.name == inbox), "")

    def _build_account(
        self,
        began: int,
        pauses: Mapping[PauseCause, str],
        failing: Sequence[str],
        unread: Sequence[Left],
        untaken: Sequence[str],
    ) -> Drained:
        """Return the outcome after the services have stopped, with the reason for each job left."""
        state = self._settings.state
        roots = {inbox.name: inbox.path for inbox in self._settings.inboxes}
        problems = [*pauses.values(), *failing]
        of_all = [reason for cause, reason in pauses.items() if not cause.name]
        general = next(iter([*of_all, *failing]), "")
        stopped = self._stop_requested.is_set()
        otherwise = "the daemon was stopped before its turn" if stopped else "it was not done"

        def build_path(row: Row) -> str:
            return (
                str(roots[str(row["inbox"])] / str(row["path"]))
                if row["inbox"] in roots
                else str(row["path"])
            )

        def reason(row: Row) -> str:
            return self._why_held(str(row["inbox"])) or general or str(row["error"] or otherwise)

        try:
            ended = {
                str(row["status"]): int(str(row["n"]))
                for row in query_ledger(state, _ENDED, {"began": began})
            }
            failed = [
                Left(build_path(row), str(row["error"]))
                for row in query_ledger(state, _FAILED, {"began": began})
            ]
            left = [Left(build_path(row), reason(row)) for row in query_ledger(state, _LEFT)]
        except (LedgerError, QueryError) as error:
            ended, failed, left = {}, [], []
            problems = [*problems, str(error)]
        return Drained(
            ended=ended,
            failed=tuple(failed),
            left=(*left, *unread),
            untaken=tuple(untaken),
            troubles=tuple(problems),
        )

    # --- start; services stop in reverse order: first no new files, then the work, last the ledger

    async def _start_services(self) -> None:
        await self._start_background_task(self._handle_events())
        self._ledger = await self._open_ledger()
        self._main_loop = MainLoop(asyncio.get_running_loop())
        self._stack.push_async_callback(self._main_loop.close)
        self._pauses = Pauses(ledger=self._ledger, hub=self.hub, clock=self._clock)
        self._failures = ServiceFailures(ledger=self._ledger, hub=self.hub, clock=self._clock)
        await self._failures.save()  # clears the failures of an earlier daemon
        await self._pauses.restore_manual_pause(obeyed=self._wait_for_fixes)
        self._pool = self._new_pool()
        self._stack.enter_context(
            signals.install_handlers(
                on_stop=self._request_stop,
                on_force=self._pool.kill,
                on_reload=self._reload_requested.set,
            )
        )
        self._sources = SourceDisposal(
            ledger=self._ledger, settings=self._settings, hub=self.hub, clock=self._clock
        )
        outboxes = Outboxes(inboxes=self._settings.inboxes, pauses=self._pauses)
        self._dispatcher = Dispatcher(
            ledger=self._ledger,
            pool=self._pool,
            publisher=Publisher(ledger=self._ledger, outboxes=outboxes, sources=self._sources),
            outboxes=outboxes,
            pauses=self._pauses,
            incidents=Incidents(ledger=self._ledger),
            settings=self._settings,
            clock=self._clock,
            wait_for_fixes=self._wait_for_fixes,
        )
        await outboxes.prepare_folders()
        await self._pool.start(self._dispatcher.enqueue_event)
        watchdog = StallWatchdog(
            ledger=self._ledger,
            pool=self._pool,
            pauses=self._pauses,
            failures=self._failures,
            settings=self._settings.recovery,
            clock=self._clock,
            abandon_claim=self._dispatcher.abandon_claim,
        )
        heartbeat = Heartbeat(ledger=self._ledger, pauses=self._pauses, pool=self._pool)
        for service in (self._sources, outboxes, heartbeat, self._dispatcher, watchdog):
            self._stack.push_async_callback(service.stop)
            await service.start(self._failures)
        await self._start_reloadable()
        if self._wait_for_fixes and self._settings.server.enabled:
            await self._start_server()
        await self._start_background_task(self._run_reloads())
        notify.notify_ready()

    async def _open_ledger(self) -> Ledger:
        path = self._settings.state / LEDGER
        ledger = await Ledger.open(path, clock=self._clock, hub=self.hub, boot_id=uuid.uuid4().hex)
        self._stack.push_async_callback(ledger.close)
        self._began = await ledger.find_newest_event()
        await ledger.release_stale_claims()
        await ledger.shorten_waits(
            self._settings.recovery,
            delivery_wait_s=self._settings.notify.retry_max_s,
            final_wait_s=self._settings.watch.incomplete_max_s,
        )
        started = {
            "pid": os.getpid(),
            "version": __version__,
            "started_at": format_utc(self._clock.utc()),
        }
        await ledger.store_state("daemon", started)
        return ledger

    def _new_pool(self) -> WorkerPool:
        return LocalPool(
            settings=self._settings.workers,
            recovery=self._settings.recovery,
            state_dir=self._settings.state,
            folders={inbox.name: inbox.path for inbox in self._settings.inboxes},
            main_loop=self._main_loop,
            clock=self._clock,
        )

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
        recorder = Recorder(
            folder=self._settings.upload_inbox.path,
            publish=publish_to_hub(self._main_loop, self.hub),
            is_present=lambda: self._intake.is_present(self._settings.upload_inbox.name),
            spare=self._settings.state / "recordings",
        )
        self._stack.push_async_callback(asyncio.to_thread, recorder.stop)
        server = serving.Server(
            current=lambda: self._settings,
            ledger=self._ledger,
            hub=self.hub,
            pauses=self._pauses,
            failures=self._failures,
            pool=self._pool,
            recorder=recorder,
            admit=lambda *files: self._intake.admit_file(*files),  # noqa: PLW0108 - replaced by reloads
            is_present=lambda inbox: self._intake.is_present(inbox),  # noqa: PLW0108
        )
        self._stack.push_async_callback(server.stop)
        await server.start()

    async def _start_reloadable(self) -> None:
        """Start the services whose settings may change at run time: a reload replaces them."""
        janitor = Janitor(
            path=self._settings.state / LEDGER,
            ledger=self._ledger,
            settings=self._settings.ledger,
            clock=self._clock,
        )
        self._intake = Intake(
            settings=self._settings,
            ledger=self._ledger,
            pauses=self._pauses,
            main_loop=self._main_loop,
            clock=self._clock,
            anchors=self._anchors,
        )
        resource_guard = ResourceGuard(
            settings=self._settings.polite if self._wait_for_fixes else PoliteSettings(),
            pauses=self._pauses,
            pool=self._pool,
            clock=self._clock,
        )
        notifier = Notifier(
            settings=self._settings, ledger=self._ledger, hub=self.hub, clock=self._clock
        )
        self._reloadable = (janitor, resource_guard, notifier, self._intake)
        for service in self._reloadable:
            self._stack.push_async_callback(service.stop)
            await service.start(self._failures)

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
        with self.hub.subscribe(backlog=None) as events:
            async for event in events:
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

    async def _run_reloads(self) -> None:
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            notify.notify_reloading()
            try:
                await self._apply_settings(self._reload_settings())
            except ConfigError as error:
                self._publish_event(ConfigRefused(error=str(error), hint=error.hint))
            notify.notify_ready()

    async def _apply_settings(self, wanted: Settings) -> None:
        """Apply the settings that can change at run time."""
        changes = compare_settings(self._settings, wanted)
        self._settings = apply_live_changes(self._settings, wanted)
        if changes.now:
            logs.set_level(self._settings.log)
            for service in reversed(self._reloadable):
                await service.stop()
            await self._start_reloadable()
        reloaded = ConfigReloaded(now=list(changes.now), restart=list(changes.restart))
        self._publish_event(reloaded)

    def _publish_event(self, payload: Payload) -> None:
        self.hub.publish(Event.of(payload, at=format_utc(self._clock.utc())))

    async def _start_background_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._stack.push_async_callback(asyncio.wait, {task})
        self._stack.callback(task.cancel)
