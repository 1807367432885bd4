"""Starts a daemon: lock, worker, and everything else while the worker imports its libraries."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from speakeasyd.config import Settings
from speakeasyd.domain.drained import Drained
from speakeasyd.garbage import exempt_existing_objects, pause_collection
from speakeasyd.ledger.failures import explain_errors
from speakeasyd.ledger.lock import LedgerLock
from speakeasyd.ledger.readonly import LEDGER
from speakeasyd.system.limits import raise_file_limit
from speakeasyd.workers.early_worker import start_early_worker
from speakeasyd.workers.spawn import SpawnedWorker

if TYPE_CHECKING:
    from speakeasyd.daemon import Daemon, OnEvent, ReloadSettings


def run_daemon(
    settings: Settings,
    *,
    prestarted: SpawnedWorker | None = None,
    on_event: "OnEvent | None" = None,
    reload_settings: "ReloadSettings | None" = None,
) -> int:
    """Run until stopped. Returns the exit status.

    `prestarted`: a worker to use, which its owner ends. `on_event`: called on the loop with every
    event; it must be quick. `reload_settings`: loads the configuration again. Raises StartError or
    LedgerError if it cannot start.
    """

    async def run() -> int:
        daemon = await open_daemon(on_event=on_event, reload_settings=reload_settings)
        return await daemon.run()

    with prepare_daemon(settings, prestarted) as open_daemon:
        return asyncio.run(run())


def drain(
    settings: Settings,
    *,
    prestarted: SpawnedWorker | None = None,
    on_event: "OnEvent | None" = None,
) -> Drained:
    """Run until nothing more can be done, or until stopped. See `run_daemon`.

    Raises StartError or LedgerError.
    """

    async def run() -> Drained:
        daemon = await open_daemon(wait_for_fixes=False, on_event=on_event)
        return await daemon.run_until_drained()

    with prepare_daemon(settings, prestarted) as open_daemon:
        return asyncio.run(run())


def has_new_files(settings: Settings, *, patience_s: float = 0.2) -> bool:
    """Return whether an inbox has an entry that is newer than the ledger.

    False if the folders do not answer within `patience_s`; those on a dead server never do.
    """
    found: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(_look_for_new_files(settings)), daemon=True).start()
    with suppress(queue.Empty):
        return found.get(timeout=patience_s)
    return False


def _look_for_new_files(settings: Settings) -> bool:
    with suppress(OSError):
        ledger = settings.state / LEDGER
        known_at = ledger.stat().st_mtime if ledger.exists() else 0.0
        entries = (entry for inbox in settings.inboxes for entry in inbox.path.iterdir())
        return any(entry.lstat().st_ctime > known_at for entry in entries)
    return False


@contextmanager
def prepare_daemon(
    settings: Settings, prestarted: SpawnedWorker | None
) -> Iterator[Callable[..., Awaitable["Daemon"]]]:
    """Lock the ledger, start a worker or use `prestarted`, and migrate the ledger.

    Yields `Daemon.open`. Raises StartError or LedgerError.
    """
    raise_file_limit()
    with explain_errors(settings.state / LEDGER):
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        LedgerLock(settings.state),
        start_early_worker(
            settings, prestarted, needs_model=partial(has_new_files, settings)
        ) as early,
    ):
        with pause_collection():
            # Here, since these imports are slow, and the worker starts meanwhile
            from speakeasyd.daemon import Daemon  # noqa: PLC0415
            from speakeasyd.ledger.migrate import migrate_ledger  # noqa: PLC0415

        migrate_ledger(settings.state / LEDGER)
        with exempt_existing_objects():
            yield partial(Daemon.open, settings, early=early)
