"""Watches one inbox: starts the watcher and scans; repeats scans, also when events are lost."""

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from speakeasyd.clock import Clock
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.job import Sighting
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.errors import LedgerHeld, LedgerUnwritable
from speakeasyd.inbox.paths import join_path
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing, scan_inbox
from speakeasyd.inbox.watcher import Watcher
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import store_inbox_state
from speakeasyd.ledger.new_jobs import find_unknown_files
from speakeasyd.loop import MainLoop
from speakeasyd.mounts import SILENT, MountAnchor, find_filesystem_type
from speakeasyd.services.arrivals import Arrivals
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup

CHECK_S = 2.0  # seconds between two checks of the watcher and the inbox
RETRY_S = 5.0  # seconds between retries while the ledger cannot be written
ANSWER_S = 60.0  # seconds for the folder to answer: a slice of a scan, a new observer
STOP_S = 10.0  # seconds for the observer to stop
SLICE = 2000  # files of a scan that are compared with the ledger per query
AT_ONCE = float("-inf")  # time of a scan that is due at once
UNTAKEN_S = 2.0  # seconds after which a scan counts new files that are ignored
EXAMPLES = 3  # ignored files that are named
LOGGED_MOST = 5  # most unreadable paths that are named in the log at one time
PROBED_MOST = 200  # most unreadable paths that are checked again between two scans
REST_FACTOR = 10  # least pause after a scan, as a multiple of its duration

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that are not about the folder: the process or the system lacks a resource."""

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class InboxMonitor(Service):
    """Adds the files that it finds to `arrivals`, and wakes `admission`."""

    def __init__(
        self,
        *,
        inbox: InboxSettings,
        anchor: MountAnchor,
        settings: Settings,
        arrivals: Arrivals,
        admission: Service,
        ledger: Ledger,
        pauses: Pauses,
        main_loop: MainLoop,
        clock: Clock,
    ) -> None:
        super().__init__()
        self._inbox = inbox
        self._settings = settings.watch
        self._rules = InboxRules.for_inbox(settings, inbox)
        self._arrivals = arrivals
        self._admission = admission
        self._ledger = ledger
        self._pauses = pauses
        self._clock = clock
        self._threads = ThreadGroup(f"inbox {inbox.name}")
        self._anchor = anchor
        self._watcher = Watcher(
            root=inbox.path,
            rules=self._rules,
            main_loop=main_loop,
            on_changes=self._on_watcher_event,
        )
        self._event_problem: str | None = None  # why not all events are received; None if they are
        self._arm_again_at = 0.0  # monotonic seconds; used only while there is an event problem
        # Monotonic seconds until which scans are frequent because events were missed
        self._distrust_events_until = 0.0
        self._scan_at = AT_ONCE  # monotonic seconds
        self._scanning = False
        self._scanned = False  # at least once, or the inbox is not present
        # The watcher ran before the last scan, so a new file should have an event
        self._events_since_scan = False
        self._folders: set[bytes] = set()
        self._unreadable: dict[bytes, str] = {}
        self._untaken: list[bytes] = []
        # Monotonic seconds before which only lost events cause a scan
        self._rest_until = 0.0
        self.refusal = ""  # why the ledger could not be queried; empty while it can
        self._published: object = None

    @property
    def name(self) -> str:
        return f"inbox monitor {self._inbox.name}"

    async def run_once(self) -> float:
        try:
            is_watched = await self._call_folder(self._is_watched)
            await self._ensure_watching(is_watched)
            await self._recheck_unreadable()
            await self._run_due_scans()
            await self._publish_state()
        except InboxMissing as missing:
            await self._handle_missing_inbox(missing)
            return CHECK_S
        except LedgerUnwritable as error:
            # the heartbeat reports a held ledger
            if not isinstance(error, LedgerHeld) and not self.refusal:
                log.warning("inbox %s: the scan waits for the ledger: %s", self._inbox.name, error)
            self._scan_at = AT_ONCE
            self.refusal = str(error)
            return RETRY_S
        except Exception:
            self._scan_at = AT_ONCE  # the next scan finds what was being processed
            raise
        self.refusal = ""
        return min(CHECK_S, max(0.0, self._scan_at - self._clock.monotonic()))

    async def stop(self) -> None:
        await super().stop()
        await self._stop_watching()
        self._threads.close()

    @property
    def unreadable(self) -> Mapping[bytes, str]:
        """Folders and files that the last scan could not read, and why."""
        return self._unreadable

    @property
    def untaken(self) -> Sequence[bytes]:
        """Files that the last scan ignored: unknown extension, or not a regular file."""
        return self._untaken

    @property
    def idle(self) -> bool:
        """Return whether the inbox was scanned (or is not present) and no change is pending."""
        return self._scanned and not self._scanning and not self._folders

    # --- events

    async def _on_watcher_event(self) -> None:
        """Process pending events. Called on the loop, once for any number of events."""
        try:
            self._process_changes()
        except Exception:
            self._scan_at = AT_ONCE  # the scan finds what the events reported
            self.wake()
            raise

    def _process_changes(self) -> None:
        changes = self._watcher.take_changes()
        now = self._clock.monotonic()
        for path, finished in changes.files.items():
            self._arrivals.notice_file(path, now, announced=True, hint=finished)
        if changes.files:
            self._admission.wake()
        self._folders |= changes.folders
        if changes.untaken:
            self._scan_at = min(self._scan_at, max(now + UNTAKEN_S, self._rest_until))
        if changes.lost:
            log.warning("inbox %s: the system dropped events; scanning", self._inbox.name)
            self._scan_at = AT_ONCE
        if changes.folders or changes.untaken or changes.lost:
            self.wake()

    # --- calls on the folder, which may be on a server that does not answer

    async def _call_folder(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in the inbox's own threads.

        Raises InboxMissing if the folder does not answer.
        """
        try:
            return await self._threads.run_within(ANSWER_S, function, *args, **kwargs)
        except TimeoutError as error:
            raise InboxMissing(f"the inbox {self._inbox.path} does not answer") from error

    async def _stop_watching(self) -> None:
        with suppress(TimeoutError):
            await self._threads.run_within(STOP_S, self._watcher.stop_watching)

    def _is_watched(self) -> bool:
        """Return whether the watcher works. Blocks. Raises InboxMissing.

        An unmounted inbox would otherwise look like one whose files were all deleted.
        """
        if not self._anchor.is_present():
            raise InboxMissing(f"the inbox {self._inbox.path} is missing or no longer mounted")
        return self._watcher.is_healthy()

    async def _ensure_watching(self, is_watched: bool) -> None:
        """Start the watcher; restart it if its observer has died. Raises InboxMissing."""
        if self._settings.poll == "always":
            return
        self._check_for_missed_events()
        now = self._clock.monotonic()
        if self._arm_again_at <= now or not is_watched:
            self._event_problem = await self._call_folder(self._watcher.start_watching)
            if not self._event_problem and self._settings.poll == "auto":
                kind = await self._call_folder(find_filesystem_type, self._inbox.path)
                self._event_problem = (
                    f"{kind} reports no changes made by other machines" if kind in SILENT else None
                )
            self._arm_again_at = (
                now + self._settings.rescan_s if self._event_problem else float("inf")
            )
            self._scan_at = AT_ONCE
            self._events_since_scan = False
        await self._on_watcher_event()  # changes of a call that was dropped

    def _check_for_missed_events(self) -> None:
        """If files came without an event, restart the watcher and scan frequently for a while."""
        missed, self._arrivals.missed = self._arrivals.missed, False
        now = self._clock.monotonic()
        if missed and self._has_events and now >= self._distrust_events_until:
            log.warning(
                "inbox %s: files came without an event; restarting the watcher", self._inbox.name
            )
            self._distrust_events_until = now + self._settings.rescan_s
            self._arm_again_at = now

    @property
    def _has_events(self) -> bool:
        return self._settings.poll != "always" and self._event_problem is None

    @property
    def _scan_period(self) -> float:
        """Seconds between scans."""
        trusted = self._has_events and self._clock.monotonic() >= self._distrust_events_until
        return (
            self._settings.rescan_s
            if trusted or self._settings.poll == "never"
            else self._settings.poll_s
        )

    # --- scans

    async def scan_folder(self, folder: bytes = b"") -> None:
        """Add the files of the inbox, or of one folder in it, that the ledger does not know.

        Raises InboxMissing, LedgerError, or OSError if the process lacks a resource (file handles,
        memory).
        """
        announced = bool(folder) or not self._events_since_scan
        unreadable: dict[bytes, OSError] = {}
        untaken: list[bytes] = []
        self._scanning = True
        try:
            sightings = scan_inbox(
                self._inbox.path,
                self._rules,
                folder=folder,
                on_error=unreadable.__setitem__,
                on_untaken=untaken.append,
            )
            while part := await self._call_folder(_take_slice, sightings):
                unknown = await self._ledger.read(find_unknown_files, self._inbox.name, part)
                await self._on_watcher_event()
                now = self._clock.monotonic()
                for sighting in unknown:
                    self._arrivals.notice_file(sighting.path, now, announced=announced)
                if unknown:
                    self._admission.wake()
        finally:
            self._scanning = False
        if shortage := next(
            (error for error in unreadable.values() if error.errno in _SHORTAGES), None
        ):
            raise shortage  # the files exist: another scan is needed
        reasons = {path: str(error.strerror) for path, error in unreadable.items()}
        if folder:
            reasons = self._unreadable | reasons
        else:
            self._untaken = untaken
        self._report_unreadable(reasons)

    async def _run_due_scans(self) -> None:
        started = self._clock.monotonic()
        if started >= self._scan_at:
            self._scan_at = started
            await self.scan_folder()
            now = self._clock.monotonic()
            self._rest_until = now + REST_FACTOR * (now - started)
            if self._scan_at == started:  # otherwise events were lost meanwhile: scan once more
                self._scan_at = max(now + self._scan_period, self._rest_until)
            self._events_since_scan = self._has_events
            self._scanned = True
            await self._pauses.end_pause(self._pause_cause)
        folders, self._folders = self._folders, set()
        for folder in _keep_topmost(folders):
            await self.scan_folder(folder)

    async def _recheck_unreadable(self) -> None:
        """Check whether unreadable paths are readable now: then scan, and restart the watcher.

        No event reports a change of permissions.
        """
        probed = list(islice(self._unreadable, PROBED_MOST))
        readable = (
            await self._call_folder(_find_readable, self._inbox.path, probed) if probed else []
        )
        if readable:
            for path in readable:
                del self._unreadable[path]
            self._scan_at = AT_ONCE
            self._arm_again_at = self._clock.monotonic()

    def _report_unreadable(self, unreadable: dict[bytes, str]) -> None:
        new = sorted(unreadable.keys() - self._unreadable.keys())
        for path in new[:LOGGED_MOST]:
            name = path.decode("utf-8", "backslashreplace")
            hint = "it is checked again every few seconds"
            log.warning(
                "inbox %s: cannot look into %s: %s; %s",
                self._inbox.name,
                name,
                unreadable[path],
                hint,
            )
        if len(new) > LOGGED_MOST:
            more = len(new) - LOGGED_MOST
            log.warning(
                "inbox %s: cannot look into %s more paths: see speakeasyd status",
                self._inbox.name,
                more,
            )
        self._unreadable = unreadable

    # --- report

    async def _handle_missing_inbox(self, missing: InboxMissing) -> None:
        """Pause the queue of a missing inbox: its jobs wait until it is present again."""
        self._scan_at = AT_ONCE
        self._scanned = True
        self._folders.clear()
        await self._stop_watching()
        await self._pauses.begin_pause(self._pause_cause, str(missing))

    async def _publish_state(self) -> None:
        """Store how the inbox is watched, for `status`; only if that has changed."""
        state = {
            "path": str(self._inbox.path),
            "events": self._has_events,
            "scan_every_s": self._scan_period,
            "note": self._event_problem or "",
            "unreadable": [path.decode("utf-8", "backslashreplace") for path in self._unreadable],
            "untaken": len(self._untaken),
            "untaken_examples": [
                path.decode("utf-8", "backslashreplace") for path in self._untaken[:EXAMPLES]
            ],
        }
        if state != self._published:
            if self._event_problem:
                log.warning(
                    "inbox %s: %s; scanning every %g s",
                    self._inbox.name,
                    self._event_problem,
                    self._scan_period,
                )
            await self._ledger.write(store_inbox_state, self._inbox.name, state)
            self._published = state

    @property
    def _pause_cause(self) -> PauseCause:
        return PauseCause(PauseKind.INBOX, self._inbox.name)


def _keep_topmost(folders: set[bytes]) -> Iterator[bytes]:
    """Yield the folders that are not below another one: a scan includes the folders below."""
    last = b""
    for folder in sorted(folders):
        if not last or not folder.startswith(last + b"/"):
            last = folder
            yield folder


def _find_readable(root: Path, paths: Sequence[bytes]) -> list[bytes]:
    """Return the paths that are readable now or no longer exist. Blocks."""
    return [path for path in paths if _is_readable(join_path(root, path))]


def _is_readable(path: bytes) -> bool:
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return not is_folder or os.access(path, os.R_OK | os.X_OK)


def _take_slice(sightings: Iterator[Sighting]) -> list[Sighting]:
    return list(islice(sightings, SLICE))
