"""Events of the filesystem: hints that make things quicker. What they miss, the scan finds."""

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
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

from speakeasyd.inbox.rules import Rules
from speakeasyd.inbox.scanner import InboxMissing
from speakeasyd.loop import MainLoop

if sys.platform == "linux":
    from watchdog.observers.inotify import InotifyObserver

JOIN_S = 5.0  # seconds to wait for an observer's threads to leave; they are daemons, and may hang on a dead share

log = logging.getLogger(__name__)

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
class News:
    """What events have told since it was last asked. Paths are relative to the inbox, '/' between parts."""

    files: dict[bytes, bool] = field(default_factory=dict)  # true: closed by its writer, or moved in
    folders: set[bytes] = field(default_factory=set)  # appeared, perhaps with files in them that no event tells of
    untaken: bool = False  # a file came that is left out for its extension alone
    lost: bool = False  # the system could not keep up: there were more events than are told here

    def __bool__(self) -> bool:
        return bool(self.files or self.folders or self.untaken or self.lost)


class Watcher:
    """Watches one inbox. `on_news` runs on the main loop, once for any number of events; it asks `take` for them.

    `arm`, `disarm` and `healthy` block on the filesystem: call them in a thread.
    """

    def __init__(
        self, *, root: Path, rules: Rules, main_loop: MainLoop, on_news: Callable[[], Coroutine[None, None, object]]
    ) -> None:
        self._root = root
        self._top = os.path.realpath(root)  # macOS gives paths of events without the links in them
        self._rules = rules
        self._main_loop = main_loop
        self._on_news = on_news
        self._arming = threading.Lock()
        self._lock = threading.Lock()  # on the news
        self._news = News()
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self._overflows = _Overflows(self._note_lost)

    def arm(self) -> str | None:
        """Watch from now on, with a new observer. Returns what people should know when not all events will come.

        Raises InboxMissing. The old observer goes once the new one is there, so nothing is missed in between.
        """
        with self._arming:
            return self._arm()

    def disarm(self) -> None:
        """Idempotent."""
        with self._arming:
            self._disarm()

    def healthy(self) -> bool:
        """Whether the observer lives and still watches the folder that has the inbox's name."""
        return (
            self._identity is not None
            and self._identity == self._present_identity()
            and (self._observer is None or _alive(self._observer))
        )

    def take(self) -> News:
        """What came since the last time."""
        with self._lock:
            news, self._news = self._news, News()
        return news

    def _arm(self) -> str | None:
        self._top = os.path.realpath(self._root)
        identity = self._present_identity()
        if identity is None:
            self._disarm()
            raise InboxMissing(f"the inbox {self._root} is not there")
        observer: BaseObserver | None = None
        try:
            observer = _observe(self._top, _Handler(self._note), recursive=True)
            _stop(_observe(self._top, FileSystemEventHandler(), recursive=False))  # is there a watch left?
            complaint = None
        except OSError as error:
            complaint = _explain(error)
        old, self._observer = self._observer, observer
        self._identity = identity
        _stop(old)
        self._overflows.attach()
        return complaint

    def _disarm(self) -> None:
        old, self._observer = self._observer, None
        self._identity = None
        self._overflows.detach()
        _stop(old)

    def _present_identity(self) -> tuple[int, int] | None:
        try:
            root = self._root.stat()
        except OSError:
            return None
        return root.st_dev, root.st_ino

    # --- in watchdog's threads

    def _note(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent | DirMovedEvent)
        path = self._relative(os.fsencode(event.dest_path if moved else event.src_path))
        if not path:  # moved out; or the inbox itself
            return
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            if not self._rules.why_folder_ignored(path):
                self._tell(lambda news: news.folders.add(path))
        elif not self._rules.why_ignored(path):
            finished = moved or isinstance(event, FileClosedEvent)
            self._tell(lambda news: news.files.update({path: finished or news.files.get(path, False)}))
        elif self._rules.has_other_extension(os.path.basename(os.fsdecode(path))):  # noqa: PTH119 - it is no path of ours
            self._tell(lambda news: setattr(news, "untaken", True))

    def _note_lost(self) -> None:
        self._tell(lambda news: setattr(news, "lost", True))

    def _tell(self, change: Callable[[News], object]) -> None:
        with self._lock:
            first = not self._news
            change(self._news)
        if first:
            self._main_loop.hand_over(self._on_news)

    def _relative(self, path: bytes) -> bytes | None:
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
            log.exception("an event of the inbox could not be noted; the next scan will find what it was about")


class _Overflows(logging.Handler):
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


def _observe(top: str, handler: FileSystemEventHandler, *, recursive: bool) -> BaseObserver:
    """Raises OSError when the system gives no events for this folder."""
    if sys.platform == "linux":
        observer: BaseObserver = InotifyObserver(generate_full_events=True)  # it tells what was moved in from elsewhere
    else:
        observer = Observer()
    observer.start()
    try:
        observer.schedule(handler, top, recursive=recursive, event_filter=_EVENTS)
    except BaseException:
        _stop(observer)
        raise
    return observer


def _stop(observer: BaseObserver | None) -> None:
    if observer and observer.is_alive():
        observer.stop()
        observer.join(JOIN_S)


def _alive(observer: BaseObserver) -> bool:
    return observer.is_alive() and bool(observer.emitters) and all(emitter.is_alive() for emitter in observer.emitters)


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC:
            return "the system has no watches left: raise fs.inotify.max_user_watches"
        case errno.EMFILE:
            return "the system has no inotify instances left: raise fs.inotify.max_user_instances"
        case _:
            return f"the system gives no events here: {error}"
