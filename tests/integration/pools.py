"""The pools that the conformance tests run on. A new pool is one more line in `FACTORIES`."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speakeasyd.clock import Clock, SystemClock
from speakeasyd.cluster.ray_pool import RayPool
from speakeasyd.config import ClusterSettings, RecoverySettings, WorkerSettings
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.domain.devices import is_gpu
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.loop import MainLoop
from speakeasyd.testing import SCRIPTED
from speakeasyd.workers.local_pool import LocalPool

POLICY = RecoveryPolicy(
    restart_s=0.05, restart_min_s=0.01, probe_s=0.05, person_probe_s=0.1, leave_s=0.5
)


async def find_no_fault(_device: str) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class PoolSetup:
    """What a pool is built from. Its workers run the scripted engine unless `target` is given."""

    state: Path  # state folder of the workers, with the fault script
    folders: Mapping[str, Path]  # folders of sources by `SourceRef.folder`
    main_loop: MainLoop
    devices: tuple[str, ...] = ("cuda:0",)
    batch: int = 3
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    policy: RecoveryPolicy = POLICY
    probe: Callable[[str], Awaitable[str]] = find_no_fault
    idle_unload_s: float = 0.0
    clock: Clock = field(default_factory=SystemClock)
    target: str = SCRIPTED


def build_local_pool(setup: PoolSetup) -> WorkerPool:
    return LocalPool(
        settings=WorkerSettings(idle_unload_s=setup.idle_unload_s),
        recovery=setup.recovery,
        state_dir=setup.state,
        folders=setup.folders,
        main_loop=setup.main_loop,
        clock=setup.clock,
        target=setup.target,
        specs=tuple(
            WorkerSpec(device, "auto", 1, setup.batch, str(setup.state)) for device in setup.devices
        ),
        policy=setup.policy,
        probe=setup.probe,
    )


RAY_ADDRESS = "SPEAKEASYD_TEST_RAY"  # environment variable: the cluster that the tests run on


def build_ray_pool(setup: PoolSetup) -> WorkerPool:
    """Return a pool with an actor for each device, on the cluster that `RAY_ADDRESS` names."""
    resources = {"GPU": 1.0} if is_gpu(setup.devices[0]) else {"CPU": 1.0}
    return RayPool(
        settings=WorkerSettings(
            idle_unload_s=setup.idle_unload_s, replicas=1, batch_size=setup.batch
        ),
        cluster=ClusterSettings(
            address=os.environ[RAY_ADDRESS],
            actors=len(setup.devices),
            resources=resources,
            state=str(setup.state),
        ),
        recovery=setup.recovery,
        state_dir=setup.state,
        folders=setup.folders,
        main_loop=setup.main_loop,
        clock=setup.clock,
        target=setup.target,
        policy=setup.policy,
        probe=setup.probe,
    )


FACTORIES: Mapping[str, Callable[[PoolSetup], WorkerPool]] = {
    "local": build_local_pool,
    "ray": build_ray_pool,
}
