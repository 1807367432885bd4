"""Keeps an eye on one inbox: arms the watcher, then scans; scans again now and then, and whenever events were lost."""

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
from speakeasyd.errors import LedgerHeld, LedgerUnwritable
from speakeasyd.inbox.paths import join_path
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing, scan_inbox
from speakeasyd.inbox.watcher import Watcher
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.loop import MainLoop
from speakeasyd.mounts import SILENT, MountAnchor, find_filesystem_type
from speakeasyd.services.arrivals import Arrivals
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup

CHECK_S = 2.0  # seconds between two looks at whether the watcher lives and the inbox is there
RETRY_S = 5.0  # seconds between tries while the ledger cannot be written
ANSWER_S = 60.0  # seconds for the folder to answer: a slice of a scan, a new observer
STOP_S = 10.0  # seconds for the observer to stop
SLICE = 2000  # files of a scan that are compared with the ledger at a time
AT_ONCE = float("-inf")  # when to scan
UNTAKEN_S = 2.0  # seconds after which a scan counts files that came and are not taken
EXAMPLES = 3  # files that are named of those that are not taken
LOGGED_MOST = 5  # unreadable places that are named in the log at one time
PROBED_MOST = 200  # unreadable places that are looked at again between two scans
REST = 10  # after a scan that took long, at least so many times as long nothing is scanned

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing of the folder that could not be read: the process or the system has run out."""

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class InboxMonitor(Service):
    """Puts what it finds into `arrivals`, and wakes `admission`, which takes it from there."""

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
            root=inbox.path, rules=self._rules, main_loop=main_loop, on_news=self._on_watcher_event
        )
        self._complaint: str | None = None  # why not all events come; None when they should
        self._arm_again_at = 0.0  # monotonic seconds; matters only while there is a complaint
        # Monotonic seconds until which missed events make scans frequent
        self._doubtful_until = 0.0
        self._scan_at = AT_ONCE  # monotonic seconds
        self._scanning = False
        self._scanned = False  # at least once, or the inbox is away
        # The watcher was armed before the last scan: a new file should be announced
        self._events_since_scan = False
        self._folders: set[bytes] = set()
        self._unreadable: dict[bytes, str] = {}
        self._untaken: list[bytes] = []
        # Monotonic seconds before which nothing but a loss of events makes it scan
        self._rest_until = 0.0
        self.refusal = ""  # why the ledger could not be asked; empty while it can
        self._told: object = None

    @property
    def name(self) -> str:
        return f"lookout {self._inbox.name}"

    async def run_once(self) -> float:
        try:
            await self._require_inbox()
            await self._ensure_watching()
            await self._look_at_unreadable()
            await self._run_due_scans()
            await self._publish_state()
        except InboxMissing as missing:
            await self._handle_missing_inbox(missing)
            return CHECK_S
        except LedgerUnwritable as error:
            if (
                not isinstance(error, LedgerHeld) and not self.refusal
            ):  # the heartbeat tells of the former
                log.warning("inbox %s: the scan waits for the ledger: %s", self._inbox.name, error)
            self._scan_at = AT_ONCE
            self.refusal = str(error)
            return RETRY_S
        except Exception:
            self._scan_at = AT_ONCE  # what was under way is found by the next scan
            raise
        self.refusal = ""
        return min(CHECK_S, max(0.0, self._scan_at - self._clock.monotonic()))

    async def stop(self) -> None:
        await super().stop()
        await self._stop_watching()
        self._threads.close()

    @property
    def unreadable(self) -> Mapping[bytes, str]:
        """Folders and files that the last scan could not look into, and why."""
        return self._unreadable

    @property
    def untaken(self) -> Sequence[bytes]:
        """What the last scan left out for its extension alone, or because it is no regular file."""
        return self._untaken

    @property
    def idle(self) -> bool:
        """Whether the inbox was scanned or is away, and nothing tells that there is more."""
        return self._scanned and not self._scanning and not self._folders

    # --- events

    async def _on_watcher_event(self) -> None:
        """On the loop, once for any number of events."""
        try:
            self._take_news()
        except Exception:
            self._scan_at = AT_ONCE  # finds what the events told
            self.wake()
            raise

    def _take_news(self) -> None:
        news = self._watcher.take_changes()
        now = self._clock.monotonic()
        for path, finished in news.files.items():
            self._arrivals.notice_file(path, now, announced=True, hint=finished)
        if news.files:
            self._admission.wake()
        self._folders |= news.folders
        if news.untaken:
            self._scan_at = min(self._scan_at, max(now + UNTAKEN_S, self._rest_until))
        if news.lost:
            log.warning("inbox %s: the system dropped events; scanning", self._inbox.name)
            self._scan_at = AT_ONCE
        if news.folders or news.untaken or news.lost:
            self.wake()

    # --- the folder, which may be on a server that does not answer

    async def _call_folder(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in the inbox's own threads. Raises InboxMissing when the folder does not answer."""
        try:
            return await self._threads.run_within(ANSWER_S, function, *args, **kwargs)
        except TimeoutError as error:
            raise InboxMissing(f"the inbox {self._inbox.path} does not answer") from error

    async def _stop_watching(self) -> None:
        with suppress(TimeoutError):
            await self._threads.run_within(STOP_S, self._watcher.stop_watching)

    async def _require_inbox(self) -> None:
        """Raises InboxMissing: an inbox that was unmounted looks like one from which all was deleted."""
        if not await self._call_folder(self._anchor.is_present):
            raise InboxMissing(f"the inbox {self._inbox.path} is gone, or no longer mounted")

    async def _ensure_watching(self) -> None:
        """Arm the watcher, and again when it went deaf. Raises InboxMissing."""
        if self._settings.poll == "always":
            return
        self._check_for_missed_events()
        now = self._clock.monotonic()
        if self._arm_again_at <= now or not await self._call_folder(self._watcher.is_healthy):
            self._complaint = await self._call_folder(self._watcher.start_watching)
            if not self._complaint and self._settings.poll == "auto":
                kind = await self._call_folder(find_filesystem_type, self._inbox.path)
                self._complaint = (
                    f"{kind} tells nothing of what other machines do" if kind in SILENT else None
                )
            self._arm_again_at = now + self._settings.rescan_s if self._complaint else float("inf")
            self._scan_at = AT_ONCE
            self._events_since_scan = False
        await self._on_watcher_event()  # what a hand-over that found no loop left behind

    def _check_for_missed_events(self) -> None:
        """Files came that no event told of: watch anew, and for a while scan as if there were no events."""
        missed, self._arrivals.missed = self._arrivals.missed, False
        now = self._clock.monotonic()
        if missed and self._has_events and now >= self._doubtful_until:
            log.warning("inbox %s: files came without an event; watching anew", self._inbox.name)
            self._doubtful_until = now + self._settings.rescan_s
            self._arm_again_at = now

    @property
    def _has_events(self) -> bool:
        return self._settings.poll != "always" and self._complaint is None

    @property
    def _scan_period(self) -> float:
        """Seconds from scan to scan."""
        trusted = self._has_events and self._clock.monotonic() >= self._doubtful_until
        return (
            self._settings.rescan_s
            if trusted or self._settings.poll == "never"
            else self._settings.poll_s
        )

    # --- scans

    async def scan_folder(self, folder: bytes = b"") -> None:
        """Notice the files of the inbox, or of one folder in it, that the ledger does not know. Raises InboxMissing."""
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
                unknown = await self._ledger.find_unknown_files(self._inbox.name, part)
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
            raise shortage  # what could not be read is there all the same
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
            self._rest_until = now + REST * (now - started)
            if self._scan_at == started:  # else events were lost meanwhile: once more
                self._scan_at = max(now + self._scan_period, self._rest_until)
            self._events_since_scan = self._has_events
            self._scanned = True
            await self._pauses.end_pause(self._pause_cause)
        folders, self._folders = self._folders, set()
        for folder in _keep_topmost(folders):
            await self.scan_folder(folder)

    async def _look_at_unreadable(self) -> None:
        """Whether a permission was given meanwhile, which no event tells: scan, and watch what could not be watched."""
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
            hint = "it is looked at again every few seconds"
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
                "inbox %s: cannot look into %s more places: see speakeasyd status",
                self._inbox.name,
                more,
            )
        self._unreadable = unreadable

    # --- tell

    async def _handle_missing_inbox(self, missing: InboxMissing) -> None:
        """Not the same as empty: its jobs wait until it is back."""
        self._scan_at = AT_ONCE
        self._scanned = True
        self._folders.clear()
        await self._stop_watching()
        await self._pauses.begin_pause(self._pause_cause, str(missing))

    async def _publish_state(self) -> None:
        """How the inbox is watched, for `status`; only when it has changed."""
        state = {
            "path": str(self._inbox.path),
            "events": self._has_events,
            "scan_every_s": self._scan_period,
            "note": self._complaint or "",
            "unreadable": [path.decode("utf-8", "backslashreplace") for path in self._unreadable],
            "untaken": len(self._untaken),
            "untaken_examples": [
                path.decode("utf-8", "backslashreplace") for path in self._untaken[:EXAMPLES]
            ],
        }
        if state != self._told:
            if self._complaint:
                log.warning(
                    "inbox %s: %s; scanning every %g s",
                    self._inbox.name,
                    self._complaint,
                    self._scan_period,
                )
            await self._ledger.store_state(self._pause_cause, state)
            self._told = state

    @property
    def _pause_cause(self) -> str:
        return f"inbox {self._inbox.name}"


def _keep_topmost(folders: set[bytes]) -> Iterator[bytes]:
    """Those below none of the others, nearly: a scan of a folder goes into those below it."""
    last = b""
    for folder in sorted(folders):
        if not last or not folder.startswith(last + b"/"):
            last = folder
            yield folder


def _find_readable(root: Path, paths: Sequence[bytes]) -> list[bytes]:
    """Those that can be looked at now, or are gone. In a thread."""
    return [path for path in paths if _is_readable(join_path(root, path))]


def _is_readable(place: bytes) -> bool:
    try:
        is_folder = stat.S_ISDIR(os.lstat(place).st_mode)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return not is_folder or os.access(place, os.R_OK | os.X_OK)


def _take_slice(sightings: Iterator[Sighting]) -> list[Sighting]:
    return list(islice(sightings, SLICE))
