"""One device: its worker process, what that has in hand, and its recovery."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import RecoverySettings
from speakeasyd.domain import device_health, recovery
from speakeasyd.domain.device_health import ACCEPTING, DeviceHealth, DeviceState, RecoveryPolicy
from speakeasyd.domain.fault import Diagnosis, FaultKind, classify_fault
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.protocol import (
    ChunkDone,
    Drain,
    Drop,
    Fault,
    Hello,
    Loaded,
    Report,
    Request,
    Task,
    TaskFailed,
    Unload,
    Unloaded,
    WorkerSpec,
)
from speakeasyd.domain.report_check import find_complaint
from speakeasyd.domain.stepdown import step_down
from speakeasyd.errors import ErrorCode
from speakeasyd.loop import MainLoop
from speakeasyd.workers.assigned_tasks import AssignedTasks, collect_suspects
from speakeasyd.workers.liveness import LivenessTracker, RecycleTracker, count_oom_kills
from speakeasyd.workers.pool_events import DeviceChange, WorkerLost, WorkerStatus
from speakeasyd.workers.process import ProcessExit, WorkerProcess

log = logging.getLogger(__name__)

BURIAL_S = 10.0  # seconds for a killed process to be gone
WEIGH_S = 10.0  # seconds between looks at a worker's memory
IDLE_S = 2.0  # seconds without a task after which a restarted worker counts as recovered

ProbeDevice = Callable[[str], Awaitable[str]]
"""Tries a device in a disposable process. Returns the error's text, empty if the device is well."""


@dataclass(frozen=True, slots=True)
class SupervisorContext:
    """What every supervisor of a pool shares."""

    target: str  # "module:function" that the workers serve
    settings: RecoverySettings
    idle_unload_s: float
    policy: RecoveryPolicy
    main_loop: MainLoop
    clock: Clock
    probe: ProbeDevice
    on_report: Callable[[str, Report], None]  # worker, report
    on_lost: Callable[[WorkerLost], None]
    on_change: Callable[[DeviceChange], None]
    on_room: Callable[[], None]  # there may be room for more tasks now


@dataclass(slots=True)
class _WorkerRun:
    """One worker process, from start to burial."""

    process: WorkerProcess
    life: LivenessTracker
    wear: RecycleTracker
    started: float  # seconds, monotonic
    weighed: float  # seconds, monotonic: when its memory was looked at
    memory_kills: int  # by the system, when it started
    model: Loaded | None = None
    fault: Fault | None = None
    silent: bool = False  # it is killed for its silence


class Supervisor:
    """Lives on the loop. Feeds events to the recovery machine and carries out its actions."""

    def __init__(
        self, *, name: str, spec: WorkerSpec, limit: int, around: SupervisorContext
    ) -> None:
        self.name, self.spec = (
            name,
            spec,
        )  # the settings are stepped down when they prove too much for the device
        self._wanted = spec
        self._limit = limit  # tasks in hand at most
        self._around, self._clock = around, around.clock
        self._health = DeviceHealth()
        self._since = self._clock.utc()
        self._hand = AssignedTasks()
        self._run: _WorkerRun | None = None
        self._buried = asyncio.Event()
        self._buried.set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since: float | None = self._clock.monotonic()  # None while there is a task
        self._down_since: float | None = None  # None while all is well

    # --- for the pool ---

    @property
    def state(self) -> DeviceState:
        return self._health.state

    @property
    def cause(self) -> Diagnosis | None:
        return self._health.cause

    @property
    def needs_person(self) -> bool:
        return recovery.needs_person(self._health, self._around.policy)

    @property
    def empty(self) -> bool:
        return not self._hand

    def idle_for(self) -> float:
        """Seconds without a task."""
        return 0.0 if self._idle_since is None else self._clock.monotonic() - self._idle_since

    def start(self) -> None:
        self._start_process()

    def free_slots(self, model: str) -> int:
        """How many more tasks for this model are welcome now."""
        if (
            self.state not in ACCEPTING
            or not self._run
            or self._run.wear.is_due
            or self._hand.alone
        ):
            return 0
        if self._hand and self._hand.model != model:
            return 0
        return max(0, (1 if self.state is DeviceState.HALF_OPEN else self._limit) - len(self._hand))

    def assign_task(self, task: Task, *, alone: bool) -> None:
        self._hand.add_task(task, alone=alone)
        self._send_request(task)
        self._on_tasks_changed()

    def holds(self, job_id: JobId) -> bool:
        return job_id in self._hand

    def neglects(self, job_id: JobId) -> bool:
        """Whether a task in hand gets no attention from a worker that is otherwise at work."""
        if not self._run:
            return False
        now = self._clock.monotonic()
        return self._run.life.task_overdue(self._hand.heard_at(job_id), len(self._hand), now)

    def drop_job(self, job_id: JobId) -> None:
        if self._hand.drop_job(job_id):
            self._send_request(Drop(job_id))
            self._on_tasks_changed()

    def unload_model(self) -> None:
        if self._run and self._run.model and self.empty:
            self._run.model = None
            self._send_request(Unload())

    async def stop(self, grace_s: float) -> None:
        """Let the worker finish its chunks, then end it. Idempotent. What is still in hand is not reported as lost."""
        self._apply_event(device_health.StopRequested())
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._buried.wait(), grace_s)
        self.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._buried.wait(), BURIAL_S)

    def kill(self) -> None:
        if self._run:
            self._run.process.kill()

    def check_liveness(self) -> None:
        """Look after what no report tells: silence, wear, idleness."""
        run = self._run
        if not run:
            return
        now = self._clock.monotonic()
        if self._is_answer_due(run) and run.life.is_overdue(now):
            run.silent = True
            self._mark_down()
            self._apply_event(
                device_health.ProgressStopped(classify_fault(silent=True, device=self.spec.device))
            )
        if now - run.weighed > WEIGH_S:
            run.weighed = now
            run.wear.record_memory(_read_resident_bytes(run.process))
        if run.wear.is_due and self.empty:
            self._apply_event(device_health.RecycleDue())
        if self.state is DeviceState.READY and self.idle_for() > IDLE_S:
            self._mark_recovered()
        if 0 < self._around.idle_unload_s < self.idle_for():
            self.unload_model()

    def status(self, warning: str | None = None) -> WorkerStatus:
        run, cause = self._run, self._health.cause
        return WorkerStatus(
            name=self.name,
            device=self.spec.device,
            state=self.state,
            model=run.model.model if run and run.model else None,
            pid=run.process.pid if run else None,
            tasks=len(self._hand),
            since=format_utc(self._since),
            rss=run.wear.rss if run else 0,
            warning=cause.what if cause else warning,
        )

    # --- the worker process ---

    def _start_process(self) -> None:
        now = self._clock.monotonic()
        settings = self._around.settings
        run = _WorkerRun(
            process=WorkerProcess(
                name=self.name,
                spec=self.spec,
                target=self._around.target,
                main_loop=self._around.main_loop,
                on_reports=lambda reports: self._on_reports(run, reports),
                on_exit=lambda exit_: self._on_process_exit(run, exit_),
            ),
            life=LivenessTracker(stall_s=settings.stall_s, device=self.spec.device, now=now),
            wear=RecycleTracker(hours=settings.recycle_hours, growth_mb=settings.recycle_growth_mb),
            started=now,
            weighed=float("-inf"),
            memory_kills=count_oom_kills(),
        )
        try:
            run.process.start()
        except OSError as error:
            self._handle_exit(
                run, ProcessExit(status=None, error=f"{type(error).__name__}: {error}")
            )
            return
        self._run = run
        self._buried.clear()

    async def _on_reports(self, run: _WorkerRun, reports: list[Report]) -> None:
        if run is self._run:
            now = self._clock.monotonic()
            for report in map(self._check_report, reports):
                run.life.record_report(report, now)
                run.wear.record_report(report)
                self._hand.record_report(report, now)
                self._around.on_report(self.name, self._learn_from_report(run, report))
            self._on_tasks_changed()

    def _check_report(self, report: Report) -> Report:
        """The report, or, when a value in it is not what its type promises, the failure of what it is about."""
        complaint = find_complaint(report)
        if complaint is None:
            return report
        error = f"the worker sent what cannot be used: {complaint}"
        log.error("%s: %s", self.name, error)
        job_id, token = getattr(report, "job_id", None), getattr(report, "token", None)
        if not isinstance(job_id, int) or job_id not in self._hand or not isinstance(token, str):
            return Fault("host", error, ())
        self._send_request(Drop(JobId(job_id)))
        return TaskFailed(JobId(job_id), Token(token), ErrorCode.INTERNAL, error)

    def _learn_from_report(self, run: _WorkerRun, report: Report) -> Report:
        """Learn from a report. Returns it with the device by its name here: in the worker, every GPU is number 0."""
        match report:
            case Hello():
                self._apply_event(device_health.WorkerStarted())
            case Loaded():
                report = replace(report, device=self.spec.device)
                run.model = report
                if self.state is not DeviceState.POISONED:  # else it comes too late
                    run.fault = None
                    self._apply_event(device_health.ModelVerified())
                    self._mark_recovered()
            case Unloaded():
                run.model = None
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

    async def _on_process_exit(self, run: _WorkerRun, exit_: ProcessExit) -> None:
        """The process has been reaped, or given up."""
        if run is not self._run:
            return
        self._run = None
        self._buried.set()
        planned = self.state is DeviceState.STOPPED or (
            self.state is DeviceState.RECYCLING and self.empty
        )
        if planned:
            self.spec = self._wanted  # what was too much then may not be now
            self._apply_event(
                device_health.ProcessExited(classify_fault(exit_status=exit_.status), frozenset())
            )
        else:
            self._handle_exit(run, exit_)

    async def _kill_and_wait(self, run: _WorkerRun) -> None:
        """End a process. One that hangs in a driver cannot be killed: it is given up, so that its work goes on."""
        run.process.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._buried.wait(), BURIAL_S)
            return
        await self._on_process_exit(
            run, ProcessExit(status=None, error="the process cannot be killed")
        )

    def _handle_exit(self, run: _WorkerRun, exit_: ProcessExit) -> None:
        fault = run.fault
        error = fault.error if fault else exit_.error
        phase = fault.phase if fault else None
        diagnosis = classify_fault(
            phase=phase,
            error=error,
            last_words=exit_.last_words,
            exit_status=exit_.status,
            silent=run.silent,
            short_of_memory=count_oom_kills() > run.memory_kills,
            device=self.spec.device,
        )
        if fault and fault.traceback and diagnosis.kind in {FaultKind.DEFECT, FaultKind.UNKNOWN}:
            log.error("%s: %s. %s\n%s", self.name, diagnosis.what, diagnosis.hint, fault.traceback)
        self._mark_down()
        if not fault:
            self._step_down(diagnosis)
        tasks = self._hand.take_all(fault, blame=diagnosis.blames_work)
        self._apply_event(device_health.ProcessExited(diagnosis, collect_suspects(tasks)))
        self._around.on_lost(
            WorkerLost(
                worker=self.name,
                device=self.spec.device,
                tasks=tasks,
                diagnosis=diagnosis,
                phase=phase,
                error=error,
                exit_status=exit_.status,
                last_words=exit_.last_words,
                lived_s=self._clock.monotonic() - run.started,
                then=self.state,
            )
        )
        self._on_tasks_changed()

    def _step_down(self, diagnosis: Diagnosis) -> None:
        """As the worker does in a soft restart: the next worker begins with what this one ended with."""
        self.spec = step_down(self.spec, diagnosis.remedy) or self.spec

    def _send_request(self, request: Request) -> None:
        if self._run:
            self._run.life.restart_deadline(self._clock.monotonic())
            self._run.process.send_request(request)

    # --- recovery ---

    def _apply_event(self, event: device_health.RecoveryEvent) -> None:
        before = self._health
        self._health, actions = recovery.advance_recovery(
            before,
            event,
            now=self._clock.monotonic(),
            random_fraction=random.random(),  # noqa: S311 - jitter, no secret
            policy=self._around.policy,
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

    def _in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"recovery of {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe_device(self) -> None:
        error = await self._around.probe(self.spec.device)
        passed = (
            device_health.ProbePassed()
            if not error
            else device_health.ProbeFailed(classify_fault(phase="load", error=error))
        )
        self._apply_event(passed)

    def _is_answer_due(self, run: _WorkerRun) -> bool:
        if self.state in {DeviceState.STOPPED, DeviceState.POISONED}:
            return False
        return (
            run.life.starting
            or not self.empty
            or self.state in {DeviceState.SOFT_RESTARTING, DeviceState.RECYCLING}
        )

    def _on_tasks_changed(self) -> None:
        """After any change of what is in hand."""
        if not self.empty:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._clock.monotonic()
        self._apply_event(
            device_health.TasksFinished() if self.empty else device_health.TaskAssigned()
        )
        self._around.on_room()

    # --- news ---

    def _mark_down(self) -> None:
        if self._down_since is None:
            self._down_since = self._clock.monotonic()

    def _mark_recovered(self) -> None:
        if self._down_since is not None:
            down_s = self._clock.monotonic() - self._down_since
            self._down_since = None
            self._publish_change(down_s)

    def _publish_change(self, down_s: float | None = None) -> None:
        self._around.on_change(
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


def _read_resident_bytes(process: WorkerProcess) -> int:
    """Bytes of memory in use."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0
