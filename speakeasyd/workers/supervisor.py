"""Supervises one device: its worker, the worker's tasks, and recovery."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import RecoverySettings
from speakeasyd.domain import device_health, recovery
from speakeasyd.domain.device_health import ACCEPTING, DeviceHealth, DeviceState, RecoveryPolicy
from speakeasyd.domain.fault import Diagnosis, FaultKind, Phase, classify_fault
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.protocol import (
    ChunkDone,
    Downloading,
    Drain,
    Drop,
    Fault,
    Hello,
    Loaded,
    Report,
    Request,
    Task,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.report_check import find_complaint
from speakeasyd.domain.stepdown import step_down
from speakeasyd.domain.worker_pool import (
    DeviceChange,
    LostTask,
    OnPoolEvent,
    WorkerLost,
    WorkerReport,
    WorkerStatus,
)
from speakeasyd.errors import ErrorCode
from speakeasyd.workers.assigned_tasks import AssignedTasks, collect_suspects
from speakeasyd.workers.link import ConnectWorker, ProcessExit, WorkerLink
from speakeasyd.workers.liveness import LivenessTracker, RecycleTracker

log = logging.getLogger(__name__)

EXIT_S = 10.0  # seconds for a killed process to exit
MEMORY_CHECK_S = 10.0  # seconds between measurements of a worker's memory
IDLE_S = 2.0  # seconds without a task after which a restarted worker counts as recovered

ProbeDevice = Callable[[str], Awaitable[str]]
"""Probes a device in a disposable process. Returns the error; empty if the device works."""


@dataclass(frozen=True, slots=True)
class SupervisorContext:
    """What all supervisors of a pool share."""

    connect: ConnectWorker
    settings: RecoverySettings
    idle_unload_s: float
    policy: RecoveryPolicy
    clock: Clock
    probe: ProbeDevice
    on_event: OnPoolEvent
    on_room: Callable[[], None]  # more tasks may fit now


@dataclass(slots=True)
class _WorkerRun:
    """One worker process, from its start to its exit."""

    process: WorkerLink
    liveness: LivenessTracker
    recycling: RecycleTracker
    started: float  # seconds, monotonic
    memory_checked: float  # seconds, monotonic: when its memory was measured
    model: Loaded | None = None
    fault: Fault | None = None
    silent: bool = False  # it missed its liveness deadline and is killed


class Supervisor:
    """Gives events to the recovery state machine and carries out its actions. Runs on the loop."""

    def __init__(
        self, *, name: str, spec: WorkerSpec, limit: int, context: SupervisorContext
    ) -> None:
        self.name = name
        self.spec = spec  # with smaller settings after the device has refused these
        self._wanted = spec
        self._limit = limit  # tasks of the worker at most
        self._context, self._clock = context, context.clock
        self._health = DeviceHealth()
        self._since = self._clock.utc()
        self._assigned = AssignedTasks()
        self._run: _WorkerRun | None = None
        self._exited = asyncio.Event()
        self._exited.set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since: float | None = self._clock.monotonic()  # None while there is a task
        self._down_since: float | None = None  # monotonic seconds of the fault, if any

    # --- for the pool ---

    @property
    def state(self) -> DeviceState:
        return self._health.state

    @property
    def cause(self) -> Diagnosis | None:
        return self._health.cause

    @property
    def needs_person(self) -> bool:
        return recovery.needs_person(self._health, self._context.policy)

    @property
    def empty(self) -> bool:
        return not self._assigned

    def idle_for(self) -> float:
        """Seconds without a task."""
        return 0.0 if self._idle_since is None else self._clock.monotonic() - self._idle_since

    def start(self) -> None:
        self._start_process()

    def free_slots(self, model: str, urgent: bool = False) -> int:
        """Return how many more tasks for this model the worker takes now.

        For urgent tasks there are as many slots again.
        """
        if self.state not in ACCEPTING or self._assigned.alone:
            return 0
        if self.state is DeviceState.UNLOADED:
            is_ready = self._run is None  # the earlier worker has ended
        else:
            is_ready = self._run is not None and not self._run.recycling.is_due
        if not is_ready:
            return 0
        if self._assigned and self._assigned.model != model:
            return 0
        limit = self._limit * 2 if urgent else self._limit
        return max(0, (1 if self.state is DeviceState.HALF_OPEN else limit) - len(self._assigned))

    def assign_task(self, task: Task, *, alone: bool) -> None:
        self._assigned.add_task(task, alone=alone)
        self._send_request(task)
        self._on_tasks_changed()

    def holds(self, job_id: JobId) -> bool:
        """Return whether the worker has a task of this job."""
        return job_id in self._assigned

    def neglects(self, job_id: JobId) -> bool:
        """Return whether the worker works on other tasks but has not reported on this job's."""
        if not self._run:
            return False
        now = self._clock.monotonic()
        return self._run.liveness.task_overdue(
            self._assigned.find_last_report_time(job_id), len(self._assigned), now
        )

    def drop_job(self, job_id: JobId) -> None:
        if self._assigned.drop_job(job_id):
            self._send_request(Drop(job_id))
            self._on_tasks_changed()

    def end_idle_worker(self) -> None:
        """End the worker, with its model, if it has no task. The next task starts another."""
        if self.empty:
            self._apply_event(device_health.UnloadDue())

    async def stop(self, grace_s: float) -> None:
        """Let the worker finish its chunks for `grace_s` seconds, then end it. Idempotent.

        Unfinished tasks are not reported as lost.
        """
        self._apply_event(device_health.StopRequested())
        self._cancel_recovery()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), grace_s)
        self.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), EXIT_S)

    def give_up(self, diagnosis: Diagnosis, error: str) -> None:
        """End for good, since the device is gone. Reports the tasks as lost."""
        run, self._run = self._run, None
        self._exited.set()
        self._mark_down()
        tasks = self._assigned.take_all(None, blame=False)
        self._apply_event(device_health.StopRequested())
        self._cancel_recovery()
        if run:
            run.process.kill()
        self._report_loss(run, tasks, diagnosis, ProcessExit(None, error))
        self._mark_recovered()
        self._context.on_room()

    def kill(self) -> None:
        if self._run:
            self._run.process.kill()

    def check_liveness(self) -> None:
        """Check for a missed deadline, recycling and idleness. Called periodically."""
        run = self._run
        if not run:
            return
        now = self._clock.monotonic()
        if self._is_answer_due(run) and run.liveness.is_overdue(now):
            run.silent = True
            self._mark_down()
            self._apply_event(
                device_health.ProgressStopped(classify_fault(silent=True, device=self.spec.device))
            )
        if now - run.memory_checked > MEMORY_CHECK_S:
            run.memory_checked = now
            run.recycling.record_memory(run.process.read_resident_bytes())
        if run.recycling.is_due and self.empty:
            self._apply_event(device_health.RecycleDue())
        if self.state is DeviceState.READY and self.idle_for() > IDLE_S:
            self._mark_recovered()
        if 0 < self._context.idle_unload_s < self.idle_for():
            self.end_idle_worker()

    def status(self, warning: str | None = None) -> WorkerStatus:
        run, cause = self._run, self._health.cause
        return WorkerStatus(
            name=self.name,
            device=self.spec.device,
            state=self.state,
            model=run.model.model if run and run.model else None,
            pid=run.process.pid if run else None,
            tasks=len(self._assigned),
            since=format_utc(self._since),
            rss=run.recycling.rss if run else 0,
            warning=cause.what if cause else warning,
        )

    # --- the worker process ---

    def _start_process(self) -> None:
        now = self._clock.monotonic()
        settings = self._context.settings
        run = _WorkerRun(
            process=self._context.connect(
                self.name,
                self.spec,
                on_reports=lambda reports: self._on_reports(run, reports),
                on_exit=lambda exit_: self._on_process_exit(run, exit_),
            ),
            liveness=LivenessTracker(stall_s=settings.stall_s, device=self.spec.device, now=now),
            recycling=RecycleTracker(
                hours=settings.recycle_hours, growth_mb=settings.recycle_growth_mb
            ),
            started=now,
            memory_checked=float("-inf"),
        )
        try:
            run.process.start()
        except OSError as error:
            self._handle_exit(
                run, ProcessExit(status=None, error=f"{type(error).__name__}: {error}")
            )
            return
        self._run = run
        self._exited.clear()
        for task in self._assigned.list_tasks():
            self._send_request(task)
        self._context.on_room()  # a half-open device takes a task before the first report

    async def _on_reports(self, run: _WorkerRun, reports: list[Report]) -> None:
        if run is self._run:
            now = self._clock.monotonic()
            before = self.state, len(self._assigned)
            for report in map(self._check_report, reports):
                run.liveness.record_report(report, now)
                run.recycling.record_report(report)
                self._assigned.record_report(report, now)
                known = self._learn_from_report(run, report)
                self._context.on_event(WorkerReport(self.name, known))
            if before != (self.state, len(self._assigned)):
                self._on_tasks_changed()

    def _check_report(self, report: Report) -> Report:
        """Return a valid report unchanged, an invalid one as the failure of its task or worker."""
        complaint = find_complaint(report)
        if complaint is None:
            return report
        error = f"the worker sent an invalid report: {complaint}"
        log.error("%s: %s", self.name, error)
        job_id, token = getattr(report, "job_id", None), getattr(report, "token", None)
        if (
            not isinstance(job_id, int)
            or job_id not in self._assigned
            or not isinstance(token, str)
        ):
            return Fault(Phase.HOST, error, ())
        self._send_request(Drop(JobId(job_id)))
        return TaskFailed(JobId(job_id), Token(token), ErrorCode.INTERNAL, error)

    def _learn_from_report(self, run: _WorkerRun, report: Report) -> Report:
        """Update the state from a report.

        Returns the report with the device's name in the daemon: in a worker, its GPU is number 0.
        """
        match report:
            case Hello():
                self._apply_event(device_health.WorkerStarted())
            case Downloading(model=model):
                log.info("%s: downloading the model %s: %s", self.spec.device, model, report.text)
            case Loaded():
                report = replace(report, device=self.spec.device)
                run.model = report
                self._log_model(report)
                if self.state is not DeviceState.POISONED:  # else the process is being killed
                    run.fault = None
                    self._apply_event(device_health.ModelVerified())
                    self._mark_recovered()
            case Fault(phase=phase, error=error, soft=soft):
                run.fault = report
                diagnosis = classify_fault(phase=phase, error=error, device=self.spec.device)
                self._step_down(diagnosis)
                self._mark_down()
                self._apply_event(device_health.FaultReported(diagnosis, soft))
            case ChunkDone():
                self._apply_event(device_health.ChunkSucceeded())
            case _:
                pass
        return report

    def _log_model(self, loaded: Loaded) -> None:
        log.info(
            "%s: loaded the model %s in %.1f s; compute type: %s; computed by: %s; configured: %s",
            loaded.device,
            loaded.model,
            loaded.seconds,
            loaded.compute_type,
            loaded.network,
            loaded.requested,
        )

    async def _on_process_exit(self, run: _WorkerRun, exit_: ProcessExit) -> None:
        """Handle an exit: the process was reaped, or given up because it cannot be killed."""
        if run is not self._run:
            return
        self._run = None
        self._exited.set()
        planned = self.state in {DeviceState.STOPPED, DeviceState.UNLOADED} or (
            self.state is DeviceState.RECYCLING and self.empty
        )
        if planned:
            self.spec = self._wanted  # try the configured settings again
            self._apply_event(
                device_health.ProcessExited(classify_fault(exit_status=exit_.status), frozenset())
            )
            self._context.on_room()
        else:
            self._handle_exit(run, exit_)

    async def _kill_and_wait(self, run: _WorkerRun) -> None:
        """Kill a process and wait for its exit.

        A process that hangs in a driver cannot be killed. It is given up, so that its tasks can be
        assigned again.
        """
        run.process.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), EXIT_S)
            return
        await self._on_process_exit(
            run, ProcessExit(status=None, error="the process cannot be killed")
        )

    def _handle_exit(self, run: _WorkerRun, exit_: ProcessExit) -> None:
        """Classify an unexpected exit, report the lost tasks, and start recovery."""
        fault = run.fault
        error = fault.error if fault else exit_.error
        phase = fault.phase if fault else Phase.UNKNOWN
        diagnosis = classify_fault(
            phase=phase,
            error=error,
            last_words=exit_.last_words,
            exit_status=exit_.status,
            silent=run.silent,
            short_of_memory=exit_.short_of_memory,
            device=self.spec.device,
        )
        if fault and fault.traceback and diagnosis.kind in {FaultKind.DEFECT, FaultKind.UNKNOWN}:
            log.error("%s: %s. %s\n%s", self.name, diagnosis.what, diagnosis.hint, fault.traceback)
        self._mark_down()
        if not fault:
            self._step_down(diagnosis)
        tasks = self._assigned.take_all(fault, blame=diagnosis.blames_work)
        self._apply_event(device_health.ProcessExited(diagnosis, collect_suspects(tasks)))
        self._report_loss(run, tasks, diagnosis, replace(exit_, error=error), phase)
        self._on_tasks_changed()

    def _report_loss(
        self,
        run: _WorkerRun | None,
        tasks: tuple[LostTask, ...],
        diagnosis: Diagnosis,
        exit_: ProcessExit,
        phase: Phase = Phase.UNKNOWN,
    ) -> None:
        self._context.on_event(
            WorkerLost(
                worker=self.name,
                device=self.spec.device,
                tasks=tasks,
                diagnosis=diagnosis,
                phase=phase,
                error=exit_.error,
                exit_status=exit_.status,
                last_words=exit_.last_words,
                lived_s=self._clock.monotonic() - run.started if run else 0.0,
                then=self.state,
            )
        )

    def _step_down(self, diagnosis: Diagnosis) -> None:
        """Apply the worker's step of a soft restart, so that the next worker starts with it."""
        self.spec = step_down(self.spec, diagnosis.remedy) or self.spec

    def _send_request(self, request: Request) -> None:
        if self._run:
            self._run.liveness.restart_deadline(self._clock.monotonic())
            self._run.process.send_request(request)

    # --- recovery ---

    def _apply_event(self, event: device_health.RecoveryEvent) -> None:
        before = self._health
        self._health, actions = recovery.advance_recovery(
            before,
            event,
            now=self._clock.monotonic(),
            random_fraction=random.random(),  # noqa: S311 - jitter, no secret
            policy=self._context.policy,
        )
        if self._health.state is not before.state:
            self._since = self._clock.utc()
            self._publish_change()
        for action in actions:
            self._execute_action(action)

    def _execute_action(self, action: device_health.RecoveryAction) -> None:
        match action:
            case device_health.StartWorker(after_s):
                self._schedule_call(after_s, self._start_process)
            case device_health.KillWorker(after_s) if run := self._run:
                self._schedule_call(after_s, lambda: self._in_background(self._kill_and_wait(run)))
            case device_health.DrainWorker():
                self._send_request(Drain())
            case device_health.ScheduleProbe(after_s):
                self._schedule_call(after_s, lambda: self._in_background(self._probe_device()))

    def _schedule_call(self, seconds: float, function: Callable[[], object]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            function()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)

    def _cancel_recovery(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def _in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"recovery of {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe_device(self) -> None:
        error = await self._context.probe(self.spec.device)
        passed = (
            device_health.ProbePassed()
            if not error
            else device_health.ProbeFailed(classify_fault(phase=Phase.LOAD, error=error))
        )
        self._apply_event(passed)

    def _is_answer_due(self, run: _WorkerRun) -> bool:
        if self.state in {DeviceState.STOPPED, DeviceState.POISONED}:
            return False
        return (
            run.liveness.starting
            or not self.empty
            or self.state
            in {DeviceState.SOFT_RESTARTING, DeviceState.RECYCLING, DeviceState.UNLOADED}
        )

    def _on_tasks_changed(self) -> None:
        """Update idle time and state after any change of the worker's tasks."""
        if not self.empty:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._clock.monotonic()
        self._apply_event(
            device_health.TasksFinished() if self.empty else device_health.TaskAssigned()
        )
        self._context.on_room()

    # --- notifications ---

    def _mark_down(self) -> None:
        if self._down_since is None:
            self._down_since = self._clock.monotonic()

    def _mark_recovered(self) -> None:
        if self._down_since is not None:
            down_s = self._clock.monotonic() - self._down_since
            self._down_since = None
            self._publish_change(down_s)

    def _publish_change(self, down_s: float | None = None) -> None:
        self._context.on_event(
            DeviceChange(
                worker=self.name,
                device=self.spec.device,
                state=self.state,
                cause=self._health.cause,
                fault=self._run.fault
                if self._run and self.state is DeviceState.SOFT_RESTARTING
                else None,
                down_s=down_s,
            )
        )
