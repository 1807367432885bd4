"""The worker pool of this machine: a worker process for each of its devices."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.config import RecoverySettings, WorkerSettings
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.worker_pool import OnPoolEvent
from speakeasyd.loop import MainLoop
from speakeasyd.workers import devices, gpu_memory
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.devices import DiscoveredWorkers
from speakeasyd.workers.early_worker import EarlyWorker
from speakeasyd.workers.link import OnExit, OnReports, WorkerLink
from speakeasyd.workers.process import WorkerProcess
from speakeasyd.workers.spawn import SpawnedWorker, spawn_worker
from speakeasyd.workers.supervised_pool import SupervisedPool
from speakeasyd.workers.supervisor import ProbeDevice

log = logging.getLogger(__name__)


class LocalPool(SupervisedPool):
    """One worker process for each device of this machine, and a spare one on the CPU."""

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        recovery: RecoverySettings,
        state_dir: Path,
        folders: Mapping[str, Path],
        main_loop: MainLoop,
        clock: Clock,
        target: str = ENGINE,
        specs: tuple[WorkerSpec, ...] = (),
        policy: RecoveryPolicy | None = None,
        probe: ProbeDevice | None = None,
        early: EarlyWorker | None = None,
    ) -> None:
        """Create the pool; `start` starts the workers.

        `folders`: of the sources, by the names in `SourceRef.folder`. `specs`: the workers to run;
        if empty, those for `settings.device` on this machine. `early`: a worker that runs already.
        """
        super().__init__(
            settings=settings,
            recovery=recovery,
            clock=clock,
            connect=self._connect_worker,
            probe=probe or partial(devices.check_device, state_dir=str(state_dir)),
            policy=policy,
        )
        self._settings, self._state_dir = settings, state_dir
        self._specs = specs
        self._folders = {name: str(path) for name, path in folders.items()}
        self._main_loop = main_loop
        self._target, self._early = target, early

    async def start(self, on_event: OnPoolEvent) -> None:
        found = DiscoveredWorkers(self._specs) if self._specs else await self._discover_devices()
        self._specs = tuple(replace(spec, folders=self._folders) for spec in found.specs)
        self.warning = found.warning
        if self.warning:
            log.warning("%s", self.warning)
        log.info("transcribing on %s", ", ".join(spec.device for spec in self._specs))
        self._start_supervision(on_event)
        self._workers = [
            self._create_supervisor(devices.name_worker(spec), spec) for spec in self._specs
        ]
        for worker in self._workers:
            worker.start()

    async def read_gpu_available_mb(self) -> float | None:
        return await gpu_memory.read_gpu_available_mb(gpu_memory.list_gpu_workers(self.status()))

    async def _discover_devices(self) -> DiscoveredWorkers:
        return await devices.discover_workers(self._settings, state_dir=self._state_dir)

    def _connect_worker(
        self, name: str, spec: WorkerSpec, *, on_reports: OnReports, on_exit: OnExit
    ) -> WorkerLink:
        return WorkerProcess(
            partial(self._spawn_worker, name, spec),
            name=name,
            main_loop=self._main_loop,
            on_reports=on_reports,
            on_exit=on_exit,
        )

    def _spawn_worker(self, name: str, spec: WorkerSpec) -> SpawnedWorker:
        adopted = self._early.take_worker(name, spec, self._target) if self._early else None
        return adopted or spawn_worker(name, spec, self._target)
