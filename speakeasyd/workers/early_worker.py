"""A worker that is started before the daemon, so that both import their libraries at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from speakeasyd.config import Settings
from speakeasyd.domain.devices import CPU
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.devices import build_specs, find_known_devices, name_worker
from speakeasyd.workers.spawn import SpawnedWorker, spawn_worker


@dataclass(slots=True)
class EarlyWorker:
    """A running worker until the pool takes it."""

    name: str
    spec: WorkerSpec
    worker: SpawnedWorker | None

    def take_worker(self, name: str, spec: WorkerSpec, target: str) -> SpawnedWorker | None:
        """Return the worker, once, if it is the one that is wanted; else end it."""
        worker, self.worker = self.worker, None
        if worker and (name, spec, target) != (self.name, self.spec, ENGINE):
            worker.end()
            return None
        return worker


@contextmanager
def start_early_worker(
    settings: Settings,
    prestarted: SpawnedWorker | None = None,
    *,
    needs_model: Callable[[], bool] = lambda: False,
) -> Iterator[EarlyWorker | None]:
    """Start the worker of a machine without a GPU. It loads the model if `needs_model` says so.

    `prestarted`: a process that waits for its spec; it becomes this worker, or is ended. Yields None
    if another device or pool may be used. A worker that the pool does not take is killed at the end.
    """
    early = None
    if settings.workers.pool == "local" and find_known_devices(settings.workers) == (CPU,):
        early = _start_worker(settings, prestarted, preload=needs_model())
    elif prestarted:
        prestarted.end()
    try:
        yield early
    finally:
        if early and early.worker:
            early.worker.end()


def _start_worker(
    settings: Settings, prestarted: SpawnedWorker | None, *, preload: bool
) -> EarlyWorker | None:
    [plain] = build_specs(settings.workers, (CPU,), state_dir=settings.state)
    spec = replace(plain, folders={inbox.name: str(inbox.path) for inbox in settings.inboxes})
    name = name_worker(spec)
    preloading = replace(spec, preload=settings.options.model if preload else "")
    with suppress(OSError):  # the pool tries again, and tells it
        return EarlyWorker(name, spec, spawn_worker(name, preloading, ENGINE, prestarted))
    return None
