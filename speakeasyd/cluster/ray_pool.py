"""The worker pool on a Ray cluster: a supervisor for each slot that Ray has reserved."""

import asyncio
import hashlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.cluster.client import ClusterClient
from speakeasyd.cluster.messages import (
    ClusterLost,
    ClusterSeen,
    DriverSpec,
    SlotId,
    SlotLost,
    SlotReady,
)
from speakeasyd.config import ClusterSettings, RecoverySettings, WorkerSettings
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.domain.devices import CPU, FIRST_GPU, wants_gpus
from speakeasyd.domain.fault import MACHINE_LOST, Diagnosis, FaultKind, Remedy
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.retry import compute_backoff_ceiling
from speakeasyd.domain.worker_pool import OnPoolEvent, RoomAvailable
from speakeasyd.errors import ErrorCode
from speakeasyd.loop import MainLoop
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.link import OnExit, OnReports, WorkerLink
from speakeasyd.workers.supervised_pool import SPARE, SupervisedPool
from speakeasyd.workers.supervisor import ProbeDevice, Supervisor

log = logging.getLogger(__name__)

SILENT_S = 60.0  # seconds without a sign of life of the driver after which it is replaced
CONNECT_S = 600.0  # seconds, the same before it is connected: a busy machine starts it slowly
RECONNECT_S = 1.0  # seconds before the first attempt to connect again; doubles
RECONNECT_MAX_S = 30.0


class RayPool(SupervisedPool):
    """Actors on the nodes of a Ray cluster, and a spare one on any CPU of it."""

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        cluster: ClusterSettings,
        recovery: RecoverySettings,
        state_dir: Path,
        folders: Mapping[str, Path],
        main_loop: MainLoop,
        clock: Clock,
        model: str = "",
        target: str = ENGINE,
        policy: RecoveryPolicy | None = None,
        probe: ProbeDevice | None = None,
    ) -> None:
        """Create the pool; `start` connects it.

        `folders`: of the sources on this machine. `model`: the one that is compared with that of
        the nodes, as the options name it.
        """
        super().__init__(
            settings=settings,
            recovery=recovery,
            clock=clock,
            connect=self._connect_worker,
            probe=probe or _probe_nothing,
            policy=policy,
        )
        self._clock, self._main_loop = clock, main_loop
        self._target, self._probe = target, probe
        self._driver_spec = DriverSpec(
            address=cluster.address,
            actors=cluster.actors,
            resources=dict(cluster.resources),
            on_gpus=wants_gpus(settings.device),
            insecure=cluster.insecure,
            owner=_name_owner(state_dir),
            folders={name: str(path) for name, path in folders.items()},
            shared=frozenset(cluster.folders),
            state_dir=str(state_dir),
            model=model,
        )
        self._template = WorkerSpec(
            device=CPU,
            compute_type=settings.compute_type,
            replicas=settings.replicas,
            batch_size=settings.batch_size,
            state_dir=cluster.state,
            offline=settings.offline,
            hash_model=True,
            folders={name: cluster.folders.get(name, "") for name in folders},
        )
        self._specs = (self._template,)
        self._slots: dict[SlotId, Supervisor] = {}
        self._client: ClusterClient | None = None
        self._is_connected = False
        self._heard_at = 0.0  # monotonic seconds of the driver's latest sign of life
        self._attempts = 0
        self._obstacle = "the Ray cluster is being connected"
        self._lost: ClusterLost | None = None
        self._reconnection: asyncio.TimerHandle | None = None

    # --- start and stop

    async def start(self, on_event: OnPoolEvent) -> None:
        self._start_supervision(on_event)
        self._start_client()

    async def stop(self, grace_s: float) -> None:
        await super().stop(grace_s)
        if self._reconnection:
            self._reconnection.cancel()
        if self._client:
            await self._client.stop()

    def kill(self) -> None:
        super().kill()
        if self._client:
            self._client.kill()

    async def read_gpu_available_mb(self) -> float | None:
        return None

    @property
    def blocked_reason(self) -> str | None:
        if not self._workers:
            return self._obstacle
        return super().blocked_reason

    @property
    def fatal_diagnosis(self) -> Diagnosis | None:
        if self._lost and self._lost.needs_person:
            return Diagnosis(
                FaultKind.CONFIGURATION,
                Remedy.PERSON,
                ErrorCode.DEVICE_FAILED,
                self._lost.reason,
                self._lost.hint,
            )
        return super().fatal_diagnosis

    # --- the connection

    def _start_client(self) -> None:
        self._reconnection = None
        self._heard_at = self._clock.monotonic()
        client = ClusterClient(
            self._driver_spec,
            main_loop=self._main_loop,
            on_notice=lambda notice: self._on_notice(client, notice),
        )
        try:
            client.start()
        except OSError as error:
            self._on_cluster_lost(ClusterLost(f"the Ray driver cannot be started: {error}"))
            return
        self._client = client

    def _on_notice(
        self, client: ClusterClient, notice: ClusterSeen | SlotReady | SlotLost | ClusterLost
    ) -> None:
        if client is not self._client:
            return
        self._heard_at = self._clock.monotonic()
        match notice:
            case ClusterSeen():
                self._on_cluster_seen(notice)
            case SlotReady():
                self._add_worker(notice)
            case SlotLost(slot, reason):
                self._remove_worker(slot, reason)
            case ClusterLost():
                self._client = None
                self._on_cluster_lost(notice)

    def _on_cluster_seen(self, seen: ClusterSeen) -> None:
        self._attempts = 0
        self._lost = None
        if not self._is_connected:
            alive = [node for node in seen.nodes if node.alive]
            log.info("connected to the Ray cluster, %d machines", len(alive))
        self._is_connected = True
        wanted = ", ".join(f"{name} = {amount:g}" for name, amount in seen.resources.items())
        self._obstacle = f"no machine of the Ray cluster has room for an actor with {wanted}"

    def _on_cluster_lost(self, lost: ClusterLost) -> None:
        """Give the tasks back, and connect again after a while."""
        if self._stopped:
            return
        if self._is_connected or not self._attempts:
            log.error("%s. %s", lost.reason, lost.hint)
        self._lost = lost
        self._is_connected = False
        self._obstacle = f"{lost.reason}. {lost.hint}".strip()
        for slot in list(self._slots):
            self._remove_worker(slot, lost.reason)
        if self._spare:
            self._spare.give_up(MACHINE_LOST, lost.reason)
            self._spare = None
        self._attempts += 1
        wait_s = compute_backoff_ceiling(self._attempts, base=RECONNECT_S, limit=RECONNECT_MAX_S)
        self._reconnection = asyncio.get_running_loop().call_later(wait_s, self._start_client)
        self._publish_event(RoomAvailable())

    def _tick_supervisors(self) -> None:
        super()._tick_supervisors()
        limit_s = SILENT_S if self._is_connected else CONNECT_S
        if self._client and self._clock.monotonic() - self._heard_at > limit_s:
            log.error("the Ray driver has given no sign of life for %.0f s", limit_s)
            self._heard_at = self._clock.monotonic()
            self._client.kill()

    # --- workers

    def _add_worker(self, ready: SlotReady) -> None:
        on_gpu = bool(ready.resources.get("GPU"))
        kind = "cuda" if on_gpu else CPU
        taken = {worker.name for worker in self._workers}
        names = (f"{ready.node.host}-{kind}-{number}" for number in range(len(taken) + 1))
        name = next(name for name in names if name not in taken)
        number = name.rpartition("-")[2]
        cpus = max(1, int(ready.resources.get("CPU", 1)))
        spec = replace(
            self._template,
            device=f"cuda:{number}" if on_gpu else CPU,
            replicas=self._template.replicas or (0 if on_gpu else cpus),
        )
        self._specs = (replace(spec, device=FIRST_GPU if on_gpu else CPU),)
        probe = self._probe or partial(self._probe_slot, ready.slot, spec)
        worker = self._create_supervisor(name, spec, probe=probe)
        self._slots[ready.slot] = worker
        self._workers.append(worker)
        log.info("%s joined on %s", name, ready.node.address)
        worker.start()

    def _remove_worker(self, slot: SlotId, reason: str) -> None:
        if worker := self._slots.pop(slot, None):
            log.warning("%s left: %s", worker.name, reason)
            self._workers.remove(worker)
            worker.give_up(MACHINE_LOST, reason)

    async def _probe_slot(self, slot: SlotId, spec: WorkerSpec, _device: str) -> str:
        if self._client is None:
            return "the connection to the Ray cluster was lost"
        return await self._client.probe(slot, spec)

    def _find_slot(self, name: str) -> SlotId | None:
        return next((slot for slot, worker in self._slots.items() if worker.name == name), None)

    def _connect_worker(
        self, name: str, spec: WorkerSpec, *, on_reports: OnReports, on_exit: OnExit
    ) -> WorkerLink:
        slot = self._find_slot(name)
        if self._client is None or (slot is None and name != SPARE):
            return _NoLink()
        return self._client.connect(
            slot, name, spec, self._target, on_reports=on_reports, on_exit=on_exit
        )


class _NoLink:
    """The link to a worker whose slot is gone."""

    pid = None

    def start(self) -> None:
        raise OSError("the connection to the Ray cluster was lost")

    def send_request(self, request: object) -> None: ...

    def kill(self) -> None: ...

    def read_resident_bytes(self) -> int:
        return 0


async def _probe_nothing(_device: str) -> str:
    return ""


def _name_owner(state_dir: Path) -> str:
    """Return a name for the actors that is the same after a restart of the daemon."""
    where = f"{platform.node()} {state_dir.resolve()}"
    return hashlib.sha256(where.encode()).hexdigest()[:12]
