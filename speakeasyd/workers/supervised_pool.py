"""A worker pool of supervised devices; subclasses find the devices and connect their workers."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from speakeasyd.clock import Clock, find_next_check
from speakeasyd.config import RecoverySettings, WorkerSettings
from speakeasyd.domain.device_health import OPEN, QUIET, DeviceState, RecoveryPolicy
from speakeasyd.domain.devices import CPU
from speakeasyd.domain.fault import Diagnosis
from speakeasyd.domain.job import JobId
from speakeasyd.domain.protocol import Task, WorkerSpec
from speakeasyd.domain.stepdown import CPU_BATCH, GPU_BATCH, count_replicas
from speakeasyd.domain.worker_pool import (
    OnPoolEvent,
    PoolEvent,
    RoomAvailable,
    WorkerPool,
    WorkerStatus,
)
from speakeasyd.workers.link import ConnectWorker
from speakeasyd.workers.supervisor import ProbeDevice, Supervisor, SupervisorContext

log = logging.getLogger(__name__)

# seconds between checks of the liveness deadlines, and the same while nothing is expected of a worker
TICK_S = 0.5
IDLE_TICK_S = 2.0
SUPERVISED_S = 30.0  # seconds after a check for which the workers count as supervised
SPARE_IDLE_S = 5.0  # seconds without work after which the spare worker on the CPU is stopped

SPARE = "cpu-spare"  # its name
_SHORT = 3  # number of short chunks that replace one of 30 s in a batch


@dataclass(frozen=True, slots=True)
class _WaitingTask:
    task: Task
    alone: bool
    urgent: bool


def _ignore_event(_event: PoolEvent) -> None:
    """Stand for `on_event` before `start`."""


class SupervisedPool(WorkerPool):
    """A supervisor for each device, and one for a spare worker on the CPU.

    A subclass implements `start`, which calls `_start_supervision`.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        recovery: RecoverySettings,
        clock: Clock,
        connect: ConnectWorker,
        probe: ProbeDevice,
        policy: RecoveryPolicy | None = None,
    ) -> None:
        self._specs: tuple[WorkerSpec, ...] = ()  # of the workers; the first has the main device
        self._on_event: OnPoolEvent = _ignore_event
        self._policy = policy or RecoveryPolicy(cpu_stand_in=recovery.cpu_stand_in)
        self._context = SupervisorContext(
            connect=connect,
            settings=recovery,
            idle_unload_s=settings.idle_unload_s,
            policy=self._policy,
            clock=clock,
            probe=probe,
            on_event=self._publish_event,
            on_room=self._assign_waiting,
        )
        self._workers: list[Supervisor] = []
        self._spare: Supervisor | None = None  # on the CPU, for tasks that fail on the GPU
        self._retiring: set[asyncio.Task[None]] = set()
        self._waiting: deque[_WaitingTask] = deque()
        self._waiting_for_cpu: deque[_WaitingTask] = deque()
        self._ticker: asyncio.Task[None] | None = None
        self._checked_at = clock.monotonic()
        self._stopped = False
        self.warning: str | None = None  # why an existing GPU is not used

    # --- start and stop

    def _start_supervision(self, on_event: OnPoolEvent) -> None:
        self._on_event = on_event
        self._ticker = asyncio.create_task(self._run_ticks(), name="pool ticks")

    def _publish_event(self, event: PoolEvent) -> None:
        self._on_event(event)

    async def stop(self, grace_s: float) -> None:
        self._stopped = True
        if self._ticker:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
        self._waiting.clear()
        self._waiting_for_cpu.clear()
        await asyncio.gather(
            *self._retiring, *(worker.stop(grace_s) for worker in self._all_supervisors())
        )

    def kill(self) -> None:
        for worker in self._all_supervisors():
            worker.kill()

    # --- tasks ---

    @property
    def device(self) -> str:
        return self._specs[0].device if self._specs else CPU

    def capacity(self, model: str, *, urgent: bool = False) -> int:
        """Return how many more tasks for this model to submit now; 0 after `stop`.

        Enough for a worker to decode ahead and to mix files in a batch.
        """
        if self._stopped or self._waiting:
            return 0
        return sum(worker.free_slots(model, urgent) for worker in self._active_supervisors())

    def submit_task(
        self, task: Task, *, alone: bool = False, on_cpu: bool = False, urgent: bool = False
    ) -> None:
        waiting = _WaitingTask(task, alone, urgent)
        (self._waiting_for_cpu if on_cpu else self._waiting).append(waiting)
        self._assign_waiting()

    def drop_job(self, job_id: JobId) -> None:
        for queue in (self._waiting, self._waiting_for_cpu):
            for waiting in [waiting for waiting in queue if waiting.task.job_id == job_id]:
                queue.remove(waiting)
        for worker in self._all_supervisors():
            worker.drop_job(job_id)

    def neglects(self, job_id: JobId) -> bool | None:
        for worker in self._all_supervisors():
            if worker.holds(job_id):
                return worker.neglects(job_id)
        waiting = (*self._waiting, *self._waiting_for_cpu)
        return False if any(item.task.job_id == job_id for item in waiting) else None

    def unload_idle_models(self) -> None:
        for worker in self._all_supervisors():
            worker.end_idle_worker()

    @property
    def blocked_reason(self) -> str | None:
        workers = self._active_supervisors()
        if not workers or any(worker.state not in OPEN for worker in workers):
            return None
        cause = workers[0].cause
        return f"{cause.what}; {cause.hint}" if cause else "the device is being probed"

    @property
    def fatal_diagnosis(self) -> Diagnosis | None:
        workers = self._active_supervisors()
        if not all(worker.needs_person for worker in workers):
            return None
        return next((worker.cause for worker in workers if worker.cause), None)

    @property
    def is_supervised(self) -> bool:
        return self._context.clock.monotonic() - self._checked_at < SUPERVISED_S

    def status(self) -> list[WorkerStatus]:
        return [worker.status(self.warning) for worker in self._all_supervisors()]

    # --- assignment ---

    def _all_supervisors(self) -> Iterator[Supervisor]:
        yield from self._workers
        if self._spare:
            yield self._spare

    def _active_supervisors(self) -> list[Supervisor]:
        """Return the workers of ordinary tasks, with the spare one while it replaces a GPU."""
        if self._spare and any(worker.state is DeviceState.CPU_ONLY for worker in self._workers):
            return [*self._workers, self._spare]
        return self._workers

    def _assign_waiting(self) -> None:
        """Assign waiting tasks, in order, to workers that have free slots."""
        while self._waiting and (worker := self._find_supervisor_for(self._waiting[0])):
            waiting = self._waiting.popleft()
            worker.assign_task(waiting.task, alone=waiting.alone)
        if self._waiting_for_cpu:
            self._assign_to_spare()
        if not self._waiting:
            self._publish_event(RoomAvailable())

    def _find_supervisor_for(self, waiting: _WaitingTask) -> Supervisor | None:
        model = waiting.task.options.model
        roomy = max(
            self._active_supervisors(),
            key=lambda worker: worker.free_slots(model, waiting.urgent),
            default=None,
        )
        if waiting.alone:
            roomy = next(
                (
                    worker
                    for worker in self._active_supervisors()
                    if worker.empty and worker.free_slots(model)
                ),
                None,
            )
        return roomy if roomy and roomy.free_slots(model, waiting.urgent) else None

    def _assign_to_spare(self) -> None:
        spare = self._ensure_spare()
        if spare.empty and spare.free_slots(self._waiting_for_cpu[0].task.options.model):
            spare.assign_task(self._waiting_for_cpu.popleft().task, alone=True)

    def _ensure_spare(self) -> Supervisor:
        if self._spare is None:
            compute_type = "auto"  # the configured type may fit the GPU only
            spec = replace(self._specs[0], device=CPU, compute_type=compute_type, batch_size=0)
            self._spare = self._create_supervisor(SPARE, spec)
            self._spare.start()
        return self._spare

    def _create_supervisor(
        self, name: str, spec: WorkerSpec, *, probe: ProbeDevice | None = None
    ) -> Supervisor:
        """`probe`: probes the device of this worker, if that differs from the others'."""
        context = replace(self._context, probe=probe or self._context.probe)
        if spec.device == CPU:
            context = replace(context, policy=replace(self._policy, cpu_stand_in=False))
        return Supervisor(name=name, spec=spec, limit=2 * estimate_slots(spec) + 2, context=context)

    async def _run_ticks(self) -> None:
        while True:
            delay_s = TICK_S
            try:
                self._tick_supervisors()
                if self._is_quiet:
                    delay_s = IDLE_TICK_S
            except Exception:
                log.exception("checking the workers failed; the next check follows")
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(find_next_check(now, delay_s) - now)

    @property
    def _is_quiet(self) -> bool:
        """Return whether no task waits and nothing is expected of a worker."""
        return not (self._waiting or self._waiting_for_cpu) and all(
            worker.state in QUIET for worker in self._all_supervisors()
        )

    def _tick_supervisors(self) -> None:
        for worker in self._all_supervisors():
            worker.check_liveness()
        if any(worker.state is DeviceState.CPU_ONLY for worker in self._workers):
            self._ensure_spare()
        elif self._spare and not self._waiting_for_cpu and self._spare.idle_for() > SPARE_IDLE_S:
            self._retire_spare(self._spare)
            self._spare = None
        # Room may appear without an event: a worker that was due for recycling has shrunk
        if self._waiting:
            self._assign_waiting()
        elif self._waiting_for_cpu and self._spare:
            self._assign_to_spare()
        self._checked_at = self._context.clock.monotonic()

    def _retire_spare(self, worker: Supervisor) -> None:
        task = asyncio.create_task(worker.stop(SPARE_IDLE_S), name=f"retire {worker.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def estimate_slots(spec: WorkerSpec) -> int:
    """Return an estimate of the short chunks that a worker computes at the same time."""
    batch_size = spec.batch_size or (CPU_BATCH if spec.device == CPU else GPU_BATCH)
    return _SHORT * count_replicas(spec) * batch_size
