"""Events of the filesystem: hints that make things quicker. What they miss, the scan finds."""

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing
from speakeasyd.loop import MainLoop

if sys.platform == "linux":
    from watchdog.observers.inotify import InotifyFullEmitter
    from watchdog.observers.inotify_c import InotifyEvent, InotifyFD

JOIN_S = 5.0  # seconds to wait for an observer's threads to leave; they are daemons, and may hang on a dead share

log = logging.getLogger(__name__)

if sys.platform == "linux":

    class _InotifyReader(InotifyFD):
        """Reads events until an event cannot be handled. An exception would only end the thread.

        After a queue overflow, watchdog 7.1 fails with KeyError if folders were moved meanwhile.
        """

        failed = False

        def handle_event(self, event: InotifyEvent) -> None:
            if self.failed:
                return
            try:
                super().handle_event(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the observer is restarted
                self.failed = True
                log.warning("watchdog could not handle an event: %r; restarting the watcher", error)

    class _InotifyObserver(BaseObserver):
        """Reports what was moved in from elsewhere, which `Observer` does not."""

        def __init__(self) -> None:
            self._reader = _InotifyReader()
            self._reader.start()
            super().__init__(InotifyFullEmitter, inotify_fd=self._reader)

        @property
        def has_failed(self) -> bool:
            return self._reader.failed or not self._reader.is_alive()

        def on_thread_stop(self) -> None:
            with suppress(KeyError):  # for the same reason as above
                super().on_thread_stop()
            self._reader.stop()
            self._reader.join()


_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileClosedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
if sys.platform != "linux":  # elsewhere no event tells that a file was closed
    _EVENTS.append(FileModifiedEvent)


@dataclass(slots=True)
class WatchChanges:
    """What events have told since it was last asked. Paths are relative to the inbox, '/' between parts."""

    files: dict[bytes, bool] = field(
        default_factory=dict
    )  # true: closed by its writer, or moved in
    folders: set[bytes] = field(
        default_factory=set
    )  # appeared, perhaps with files in them that had no event
    untaken: bool = False  # a file was left out only for its extension
    lost: bool = False  # the system dropped events

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.untaken or self.lost)


class Watcher:
    """Watches one inbox. `on_changes` runs on the main loop, once for any number of events.

    It then asks `take_changes` for them.

    `start_watching`, `stop_watching` and `is_healthy` block on the filesystem: call them in a thread.
    """

    def __init__(
        self,
        *,
        root: Path,
        rules: InboxRules,
        main_loop: MainLoop,
        on_changes: Callable[[], Coroutine[None, None, object]],
    ) -> None:
        self._root = root
        self._top = os.path.realpath(root)  # macOS gives paths of events without the links in them
        self._rules = rules
        self._main_loop = main_loop
        self._on_changes = on_changes
        self._arming = threading.Lock()
        self._lock = threading.Lock()  # of the changes
        self._changes = WatchChanges()
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self._overflows = _OverflowLogHandler(self._record_overflow)

    def start_watching(self) -> str | None:
        """Start a new observer. Returns a warning for users if it will not get all events.

        The old observer is stopped after that, so no event is lost. Raises InboxMissing.
        """
        with self._arming:
            return self._start_observer()

    def stop_watching(self) -> None:
        """Idempotent."""
        with self._arming:
            self._stop_observer()

    def is_healthy(self) -> bool:
        """Whether the observer lives and still watches the folder that has the inbox's name."""
        return (
            self._identity is not None
            and self._identity == self._read_folder_identity()
            and (self._observer is None or _is_alive(self._observer))
        )

    def take_changes(self) -> WatchChanges:
        """What came since the last time."""
        with self._lock:
            changes, self._changes = self._changes, WatchChanges()
        return changes

    def _start_observer(self) -> str | None:
        self._top = os.path.realpath(self._root)
        identity = self._read_folder_identity()
        if identity is None:
            self._stop_observer()
            raise InboxMissing(f"the inbox {self._root} is not there")
        observer: BaseObserver | None = None
        try:
            observer = _start_native_observer(
                self._top, _Handler(self._record_event), recursive=True
            )
            _stop_native_observer(
                _start_native_observer(self._top, FileSystemEventHandler(), recursive=False)
            )  # is there a watch left?
            complaint = None
        except OSError as error:
            complaint = _explain_error(error)
        old, self._observer = self._observer, observer
        self._identity = identity
        _stop_native_observer(old)
        self._overflows.attach()
        return complaint

    def _stop_observer(self) -> None:
        old, self._observer = self._observer, None
        self._identity = None
        self._overflows.detach()
        _stop_native_observer(old)

    def _read_folder_identity(self) -> tuple[int, int] | None:
        try:
            root = self._root.stat()
        except OSError:
            return None
        return root.st_dev, root.st_ino

    # --- in watchdog's threads

    def _record_event(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent | DirMovedEvent)
        path = self._make_relative(os.fsencode(event.dest_path if moved else event.src_path))
        if not path:  # moved out; or the inbox itself
            return
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            if not self._rules.why_folder_ignored(path):
                self._update_changes(lambda changes: changes.folders.add(path))
        elif not self._rules.why_ignored(path):
            finished = moved or isinstance(event, FileClosedEvent)
            self._update_changes(
                lambda changes: changes.files.update(
                    {path: finished or changes.files.get(path, False)}
                )
            )
        elif self._rules.has_other_extension(os.path.basename(os.fsdecode(path))):  # noqa: PTH119 - it is no path of ours
            self._update_changes(lambda changes: setattr(changes, "untaken", True))

    def _record_overflow(self) -> None:
        self._update_changes(lambda changes: setattr(changes, "lost", True))

    def _update_changes(self, change: Callable[[WatchChanges], object]) -> None:
        with self._lock:
            first = not self._changes
            change(self._changes)
        if first:
            self._main_loop.schedule_from_thread(self._on_changes)

    def _make_relative(self, path: bytes) -> bytes | None:
        top = os.fsencode(self._top) + os.fsencode(os.sep)
        if not path.startswith(top):
            return None
        return path[len(top) :].replace(os.fsencode(os.sep), b"/")


class _Handler(FileSystemEventHandler):
    """What it raised would end the observer's thread."""

    def __init__(self, note: Callable[[FileSystemEvent], None]) -> None:
        self._note = note

    def dispatch(self, event: FileSystemEvent) -> None:
        try:
            self._note(event)
        except Exception:
            log.exception(
                "an event of the inbox could not be noted; the next scan will find what it was about"
            )


class _OverflowLogHandler(logging.Handler):
    """watchdog says in its log, and nowhere else, that events were lost."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow
        self._logger = logging.getLogger("watchdog")

    def attach(self) -> None:
        self._logger.addHandler(self)

    def detach(self) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._on_overflow()
        except Exception:  # noqa: BLE001 - the standard way of handlers: tell on stderr, never raise
            self.handleError(record)


def _start_native_observer(
    top: str, handler: FileSystemEventHandler, *, recursive: bool
) -> BaseObserver:
    """Raises OSError when the system gives no events for this folder."""
    if sys.platform == "linux":
        observer: BaseObserver = _InotifyObserver()
    else:
        observer = Observer()
    observer.start()
    try:
        observer.schedule(handler, top, recursive=recursive, event_filter=_EVENTS)
    except BaseException:
        _stop_native_observer(observer)
        raise
    return observer


def _stop_native_observer(observer: BaseObserver | None) -> None:
    if observer and observer.is_alive():
        observer.stop()
        observer.join(JOIN_S)


def _is_alive(observer: BaseObserver) -> bool:
    return (
        observer.is_alive()
        and bool(observer.emitters)
        and all(emitter.is_alive() for emitter in observer.emitters)
        and not getattr(observer, "has_failed", False)
    )


def _explain_error(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC:
            return "the system has no watches left: raise fs.inotify.max_user_watches"
        case errno.EMFILE:
            return "the system has no inotify instances left: raise fs.inotify.max_user_instances"
        case _:
            return f"the system gives no events here: {error}"
