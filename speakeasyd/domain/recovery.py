"""The recovery of a device, as a pure state machine, and the judgement of a chunk that workers died on.

                      Started           Busy                 Faulted (soft)
    starting ────────────────▶ ready ◀────────▶ busy ◀─────────────────────▶ soft_restarting
       ▲  ▲                      │ RecycleDue    │ Faulted, Silent             │ Silent, Faulted
       │  │                      ▼               ▼                             │
       │  └──── Died ─────── recycling        poisoned ◀───────────────────────┘
       │ Died, with backoff                      │ Died
       └─────────────────────────────────────────┤
                                                 │ faults on several files, or one that waits for a person or the device
         ProbePassed                             ▼
    half_open ◀──────────────────── device_open, or cpu_only if the CPU may stand in
       │  │ Died                         ▲
       │  └──────────────────────────────┘
       └─ Worked ─▶ busy: the circuit is closed

Time and chance are arguments; what is to be done comes back as values.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Literal, Protocol

from speakeasyd.domain.device_health import (
    OPEN,
    ChunkSucceeded,
    DeviceHealth,
    DeviceState,
    DrainWorker,
    FaultReported,
    KillWorker,
    ModelVerified,
    ProbeFailed,
    ProbePassed,
    ProcessExited,
    ProgressStopped,
    RecordedFault,
    RecoveryEvent,
    RecoveryPolicy,
    RecycleDue,
    ScheduleProbe,
    StartWorker,
    StopRequested,
    TaskAssigned,
    TasksFinished,
    Transition,
    WorkerStarted,
)
from speakeasyd.domain.fault import Diagnosis, FaultKind, Remedy
from speakeasyd.domain.job import JobId
from speakeasyd.domain.retry import compute_backoff_ceiling

_CONDEMNING = frozenset({Remedy.PERSON, Remedy.PROBE, Remedy.CPU_FOR_GOOD})
"""With these the device is at fault at once, whatever it was working on."""


_MOVES: Mapping[tuple[DeviceState, type[RecoveryEvent]], DeviceState] = {
    (DeviceState.STARTING, WorkerStarted): DeviceState.READY,
    (DeviceState.READY, TaskAssigned): DeviceState.BUSY,
    (DeviceState.BUSY, TasksFinished): DeviceState.READY,
    (DeviceState.SOFT_RESTARTING, ModelVerified): DeviceState.BUSY,
}
"""The moves that ask for nothing to be done."""


def advance_recovery(
    health: DeviceHealth, event: RecoveryEvent, *, now: float, dice: float, policy: RecoveryPolicy
) -> Transition:
    """The next state of a device and what is to be done. `now` in seconds, monotonic; `dice` from 0 up to 1."""
    state = health.state
    done: Transition = health, ()  # what an event changes nothing about
    if state is not DeviceState.STOPPED:
        match event:
            case StopRequested():
                done = replace(health, state=DeviceState.STOPPED), (DrainWorker(),)
            case ChunkSucceeded():
                done = _on_chunk_succeeded(health), ()
            case RecycleDue() if state is DeviceState.READY:
                done = replace(health, state=DeviceState.RECYCLING), (DrainWorker(),)
            case FaultReported() | ProgressStopped() if (
                state is not DeviceState.POISONED and state not in OPEN
            ):
                done = _on_fault(health, event, policy)
            case ProcessExited() if state not in OPEN:
                done = _on_exit(health, event, now=now, dice=dice, policy=policy)
            case ProbePassed() if state in OPEN:
                done = (
                    replace(health, state=DeviceState.HALF_OPEN, on_trial=True),
                    (StartWorker(0.0),),
                )
            case ProbeFailed(diagnosis) if state in OPEN:
                failed = replace(
                    health,
                    failures=health.failures + 1,
                    unexplained=health.unexplained + 1,
                    cause=diagnosis,
                )
                done = _open_circuit(failed, policy)
            case _:
                done = replace(health, state=_MOVES.get((state, type(event)), state)), ()
    return done


def _on_chunk_succeeded(health: DeviceHealth) -> DeviceHealth:
    """A chunk came back: the device is well. After a trial, the circuit is closed."""
    if health.state is DeviceState.HALF_OPEN:
        return DeviceHealth(state=DeviceState.BUSY)
    return (
        replace(health, failures=0, unexplained=0, soft=0, cause=None)
        if health.state is DeviceState.BUSY
        else health
    )


def _on_fault(
    health: DeviceHealth, event: FaultReported | ProgressStopped, policy: RecoveryPolicy
) -> Transition:
    """A sound context may mend itself, so many times; everything else has to go."""
    at_work = health.state in {DeviceState.READY, DeviceState.BUSY, DeviceState.SOFT_RESTARTING}
    if (
        isinstance(event, FaultReported)
        and event.soft
        and at_work
        and health.soft < policy.soft_limit
    ):
        return replace(
            health, state=DeviceState.SOFT_RESTARTING, soft=health.soft + 1, cause=event.diagnosis
        ), ()
    patience = 0.0 if isinstance(event, ProgressStopped) else policy.leave_s
    return replace(health, state=DeviceState.POISONED, cause=event.diagnosis), (
        KillWorker(patience),
    )


def _on_exit(
    health: DeviceHealth, event: ProcessExited, *, now: float, dice: float, policy: RecoveryPolicy
) -> Transition:
    if health.state is DeviceState.RECYCLING:
        return replace(health, state=DeviceState.STARTING), (StartWorker(0.0),)
    unexplained = 0 if event.suspects else health.unexplained + 1
    after = replace(
        health, failures=health.failures + 1, unexplained=unexplained, soft=0, cause=event.diagnosis
    )
    wait = dice * compute_backoff_ceiling(
        after.failures, base=policy.restart_s, limit=policy.restart_max_s
    )
    again = StartWorker(max(policy.restart_min_s, wait))
    if _is_device_innocent(event.diagnosis):
        return replace(
            after, state=DeviceState.HALF_OPEN if health.on_trial else DeviceState.STARTING
        ), (again,)
    if health.on_trial or event.diagnosis.remedy in _CONDEMNING:
        return _open_circuit(after, policy)
    recent = tuple(blow for blow in health.blows if now - blow.at < policy.window_s)
    after = replace(after, blows=(*recent, RecordedFault(now, event.suspects)))
    if count_uncorrelated_faults(after.blows) >= policy.faults_to_open:
        return _open_circuit(after, policy)
    return replace(after, state=DeviceState.STARTING), (again,)


def _is_device_innocent(diagnosis: Diagnosis) -> bool:
    """Whether the device had no part in it."""
    return (
        diagnosis.kind in {FaultKind.KILLED, FaultKind.FILE}
        or diagnosis.remedy is Remedy.OTHER_MODEL
    )


def _open_circuit(health: DeviceHealth, policy: RecoveryPolicy) -> Transition:
    """Leave the device alone until a probe passes; nothing that a probe cannot judge is probed."""
    opened = replace(
        health,
        state=DeviceState.CPU_ONLY if policy.cpu_stand_in else DeviceState.DEVICE_OPEN,
        on_trial=False,
    )
    match health.cause.remedy if health.cause else Remedy.PROBE:
        case Remedy.CPU_FOR_GOOD:
            return opened, ()
        case Remedy.REINSTALL if (
            health.unexplained
        ):  # else the files alone may be what the defect needs
            return opened, ()
        case Remedy.PERSON:
            return opened, (ScheduleProbe(policy.person_probe_s),)
        case _:
            return opened, (
                ScheduleProbe(
                    compute_backoff_ceiling(
                        health.failures, base=policy.probe_s, limit=policy.probe_max_s
                    )
                ),
            )


def needs_person(health: DeviceHealth, policy: RecoveryPolicy) -> bool:
    """Whether waiting will not help: somebody has to mend something, or fresh workers and probes failed too."""
    if health.state not in OPEN or not health.cause:
        return False
    match health.cause.remedy:
        case Remedy.PERSON | Remedy.CPU_FOR_GOOD:
            return True
        case Remedy.REINSTALL if health.unexplained:
            return True
        case _:
            return health.unexplained > policy.faults_to_open


def count_uncorrelated_faults(blows: tuple[RecordedFault, ...]) -> int:
    """How many of these faults no common file explains. A poison file is in all of its own, so they count as one."""
    suspected: set[JobId] = set()
    count = 0
    for blow in blows:
        if not blow.jobs & suspected:
            count += 1
        suspected |= blow.jobs
    return count


# --- a chunk that workers died on -------------------------------------------------------------------------------------


class PoisonDecision(StrEnum):
    TRY_ALONE = "try_alone"
    """One strike proves nothing: errors of a GPU surface late. Again, with nothing beside it."""
    TRY_ON_CPU = "try_on_cpu"
    """It took a fresh worker down alone: the GPU will not have it."""
    MARK_GAP = "mark_gap"
    """Nothing can transcribe it: go on without it and say so."""
    FAIL = "fail"
    """Nothing can transcribe it: the job ends here."""


class PoisonPolicy(Protocol):
    """The part of the settings that says what becomes of poison."""

    @property
    def cpu_fallback(self) -> bool: ...

    @property
    def on_poison(self) -> Literal["fail", "gap"]: ...


def decide_poison(*, strikes: int, device: str, settings: PoisonPolicy) -> PoisonDecision:
    """What to do with a chunk after so many strikes, when `device` is what the pool works on."""
    if strikes < 2:
        return PoisonDecision.TRY_ALONE
    if strikes == 2 and settings.cpu_fallback and device != "cpu":
        return PoisonDecision.TRY_ON_CPU
    return PoisonDecision.MARK_GAP if settings.on_poison == "gap" else PoisonDecision.FAIL
