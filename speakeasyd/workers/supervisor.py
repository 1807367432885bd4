"""One device: its worker process, what that has in hand, and its recovery."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from speakeasyd.clock import Clock, iso
from speakeasyd.config import RecoverySettings
from speakeasyd.domain import health, recovery
from speakeasyd.domain.fault import Diagnosis, FaultKind, classify
from speakeasyd.domain.health import ACCEPTING, Health, Policy, State
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
from speakeasyd.workers.inhand import InHand, suspected
from speakeasyd.workers.news import DeviceChange, WorkerLost, WorkerStatus
from speakeasyd.workers.process import Exit, WorkerProcess
from speakeasyd.workers.vitals import Life, Wear, memory_kills

log = logging.getLogger(__name__)

BURIAL_S = 10.0  # seconds for a killed process to be gone
WEIGH_S = 10.0  # seconds between looks at a worker's memory
IDLE_S = 2.0  # seconds without a task after which a restarted worker counts as recovered

ProbeDevice = Callable[[str], Awaitable[str]]
"""Tries a device in a disposable process. Returns the error's text, empty if the device is well."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every supervisor of a pool shares."""

    target: str  # "module:function" that the workers serve
    settings: RecoverySettings
    idle_unload_s: float
    policy: Policy
    main_loop: MainLoop
    clock: Clock
    probe: ProbeDevice
    on_report: Callable[[str, Report], None]  # worker, report
    on_lost: Callable[[WorkerLost], None]
    on_change: Callable[[DeviceChange], None]
    on_room: Callable[[], None]  # there may be room for more tasks now


@dataclass(slots=True)
class _Run:
    """One worker process, from start to burial."""

    process: WorkerProcess
    life: Life
    wear: Wear
    started: float  # seconds, monotonic
    weighed: float  # seconds, monotonic: when its memory was looked at
    memory_kills: int  # by the system, when it started
    model: Loaded | None = None
    fault: Fault | None = None
    silent: bool = False  # it is killed for its silence


class Supervisor:
    """Lives on the loop. Feeds events to the recovery machine and carries out its actions."""

    def __init__(self, *, name: str, spec: WorkerSpec, limit: int, around: Surroundings) -> None:
        self.name, self.spec = name, spec  # the settings are stepped down when they prove too much for the device
        self._wanted = spec
        self._limit = limit  # tasks in hand at most
        self._around, self._clock = around, around.clock
        self._health = Health()
        self._since = self._clock.utc()
        self._hand = InHand()
        self._run: _Run | None = None
        self._buried = asyncio.Event()
        self._buried.set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_since: float | None = self._clock.monotonic()  # None while there is a task
        self._down_since: float | None = None  # None while all is well

    # --- for the pool -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
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

    def room(self, model: str) -> int:
        """How many more tasks for this model are welcome now."""
        if self.state not in ACCEPTING or not self._run or self._run.wear.due or self._hand.alone:
            return 0
        if self._hand and self._hand.model != model:
            return 0
        return max(0, (1 if self.state is State.HALF_OPEN else self._limit) - len(self._hand))

    def assign(self, task: Task, *, alone: bool) -> None:
        self._hand.add(task, alone=alone)
        self._send(task)
        self._settle()

    def holds(self, job_id: JobId) -> bool:
        return job_id in self._hand

    def neglects(self, job_id: JobId) -> bool:
        """Whether a task in hand gets no attention from a worker that is otherwise at work."""
        if not self._run:
            return False
        now = self._clock.monotonic()
        return self._run.life.task_overdue(self._hand.heard_at(job_id), len(self._hand), now)

    def drop(self, job_id: JobId) -> None:
        if self._hand.drop(job_id):
            self._send(Drop(job_id))
            self._settle()

    def unload(self) -> None:
        if self._run and self._run.model and self.empty:
            self._run.model = None
            self._send(Unload())

    async def stop(self, grace_s: float) -> None:
        """Let the worker finish its chunks, then end it. Idempotent. What is still in hand is not reported as lost."""
        self._apply(health.Stopping())
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

    def tick(self) -> None:
        """Look after what no report tells: silence, wear, idleness."""
        run = self._run
        if not run:
            return
        now = self._clock.monotonic()
        if self._owes_an_answer(run) and run.life.overdue(now):
            run.silent = True
            self._went_down()
            self._apply(health.Silent(classify(silent=True, device=self.spec.device)))
        if now - run.weighed > WEIGH_S:
            run.weighed = now
            run.wear.weigh(_resident(run.process))
        if run.wear.due and self.empty:
            self._apply(health.RecycleDue())
        if self.state is State.READY and self.idle_for() > IDLE_S:
            self._recovered()
        if 0 < self._around.idle_unload_s < self.idle_for():
            self.unload()

    def status(self, warning: str | None = None) -> WorkerStatus:
        run, cause = self._run, self._health.cause
        return WorkerStatus(
            name=self.name,
            device=self.spec.device,
            state=self.state,
            model=run.model.model if run and run.model else None,
            pid=run.process.pid if run else None,
            tasks=len(self._hand),
            since=iso(self._since),
            rss=run.wear.rss if run else 0,
            warning=cause.what if cause else warning,
        )

    # --- the worker process -------------------------------------------------------------------------------------------

    def _start_process(self) -> None:
        now = self._clock.monotonic()
        settings = self._around.settings
        run = _Run(
            process=WorkerProcess(
                name=self.name,
                spec=self.spec,
                target=self._around.target,
                main_loop=self._around.main_loop,
                on_reports=lambda reports: self._hear(run, reports),
                on_exit=lambda exit_: self._bury(run, exit_),
            ),
            life=Life(stall_s=settings.stall_s, device=self.spec.device, now=now),
            wear=Wear(hours=settings.recycle_hours, growth_mb=settings.recycle_growth_mb),
            started=now,
            weighed=float("-inf"),
            memory_kills=memory_kills(),
        )
        try:
            run.process.start()
        except OSError as error:
            self._lost(run, Exit(status=None, error=f"{type(error).__name__}: {error}"))
            return
        self._run = run
        self._buried.clear()

    async def _hear(self, run: _Run, reports: list[Report]) -> None:
        if run is self._run:
            now = self._clock.monotonic()
            for report in map(self._checked, reports):
                run.life.note(report, now)
                run.wear.note(report)
                self._hand.note(report, now)
                self._around.on_report(self.name, self._digest(run, report))
            self._settle()

    def _checked(self, report: Report) -> Report:
        """The report, or, when a value in it is not what its type promises, the failure of what it is about."""
        complaint = find_complaint(report)
        if complaint is None:
            return report
        error = f"the worker sent what cannot be used: {complaint}"
        log.error("%s: %s", self.name, error)
        job_id, token = getattr(report, "job_id", None), getattr(report, "token", None)
        if not isinstance(job_id, int) or job_id not in self._hand or not isinstance(token, str):
            return Fault("host", error, ())
        self._send(Drop(JobId(job_id)))
        return TaskFailed(JobId(job_id), Token(token), ErrorCode.INTERNAL, error)

    def _digest(self, run: _Run, report: Report) -> Report:
        """Learn from a report. Returns it with the device by its name here: in the worker, every GPU is number 0."""
        match report:
            case Hello():
                self._apply(health.Started())
            case Loaded():
                report = replace(report, device=self.spec.device)
                run.model = report
                if self.state is not State.POISONED:  # else it comes too late
                    run.fault = None
                    self._apply(health.Loaded())
                    self._recovered()
            case Unloaded():
                run.model = None
            case Fault(phase=phase, error=error, soft=soft):
                run.fault = report
                diagnosis = classify(phase=phase, error=error, device=self.spec.device)
                self._step_down(diagnosis)
                self._went_down()
                self._apply(health.Faulted(diagnosis, soft))
            case ChunkDone():
                self._apply(health.Worked())
            case _:
                pass
        return report

    async def _bury(self, run: _Run, exit_: Exit) -> None:
        """The process has been reaped, or given up."""
        if run is not self._run:
            return
        self._run = None
        self._buried.set()
        planned = self.state is State.STOPPED or (self.state is State.RECYCLING and self.empty)
        if planned:
            self.spec = self._wanted  # what was too much then may not be now
            self._apply(health.Died(classify(exit_status=exit_.status), frozenset()))
        else:
            self._lost(run, exit_)

    async def _kill(self, run: _Run) -> None:
        """End a process. One that hangs in a driver cannot be killed: it is given up, so that its work goes on."""
        run.process.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._buried.wait(), BURIAL_S)
            return
        await self._bury(run, Exit(status=None, error="the process cannot be killed"))

    def _lost(self, run: _Run, exit_: Exit) -> None:
        fault = run.fault
        error = fault.error if fault else exit_.error
        phase = fault.phase if fault else None
        diagnosis = classify(
            phase=phase,
            error=error,
            last_words=exit_.last_words,
            exit_status=exit_.status,
            silent=run.silent,
            short_of_memory=memory_kills() > run.memory_kills,
            device=self.spec.device,
        )
        if fault and fault.traceback and diagnosis.kind in {FaultKind.DEFECT, FaultKind.UNKNOWN}:
            log.error("%s: %s. %s\n%s", self.name, diagnosis.what, diagnosis.hint, fault.traceback)
        self._went_down()
        if not fault:
            self._step_down(diagnosis)
        tasks = self._hand.lose(fault, blame=diagnosis.blames_work)
        self._apply(health.Died(diagnosis, suspected(tasks)))
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
        self._settle()

    def _step_down(self, diagnosis: Diagnosis) -> None:
        """As the worker does in a soft restart: the next worker begins with what this one ended with."""
        self.spec = step_down(self.spec, diagnosis.remedy) or self.spec

    def _send(self, request: Request) -> None:
        if self._run:
            self._run.life.expect(self._clock.monotonic())
            self._run.process.send(request)

    # --- recovery -----------------------------------------------------------------------------------------------------

    def _apply(self, event: health.Event) -> None:
        before = self._health
        self._health, actions = recovery.step(
            before,
            event,
            now=self._clock.monotonic(),
            dice=random.random(),  # noqa: S311 - jitter, no secret
            policy=self._around.policy,
        )
        if self._health.state is not before.state:
            self._since = self._clock.utc()
            self._tell()
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: health.Action) -> None:
        match action:
            case health.StartWorker(after_s):
                self._later(after_s, self._start_process)
            case health.KillWorker(after_s) if run := self._run:
                self._later(after_s, lambda: self._in_background(self._kill(run)))
            case health.DrainWorker():
                self._send(Drain())
            case health.Probe(after_s):
                self._later(after_s, lambda: self._in_background(self._probe()))

    def _later(self, seconds: float, function: Callable[[], object]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            function()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)

    def _in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"recovery of {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self) -> None:
        error = await self._around.probe(self.spec.device)
        passed = health.ProbePassed() if not error else health.ProbeFailed(classify(phase="load", error=error))
        self._apply(passed)

    def _owes_an_answer(self, run: _Run) -> bool:
        if self.state in {State.STOPPED, State.POISONED}:
            return False
        return run.life.starting or not self.empty or self.state in {State.SOFT_RESTARTING, State.RECYCLING}

    def _settle(self) -> None:
        """After any change of what is in hand."""
        if not self.empty:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._clock.monotonic()
        self._apply(health.Idle() if self.empty else health.Busy())
        self._around.on_room()

    # --- news ---------------------------------------------------------------------------------------------------------

    def _went_down(self) -> None:
        if self._down_since is None:
            self._down_since = self._clock.monotonic()

    def _recovered(self) -> None:
        if self._down_since is not None:
            down_s = self._clock.monotonic() - self._down_since
            self._down_since = None
            self._tell(down_s)

    def _tell(self, down_s: float | None = None) -> None:
        self._around.on_change(
            DeviceChange(
                worker=self.name,
                device=self.spec.device,
                state=self.state,
                cause=self._health.cause,
                fault=self._run.fault if self._run and self.state is State.SOFT_RESTARTING else None,
                down_s=down_s,
            )
        )


def _resident(process: WorkerProcess) -> int:
    """Bytes of memory in use."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0
