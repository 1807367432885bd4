"""The recovery of a device as a pure state machine, and the policy for poison chunks.

                      Started           Busy                 Faulted (soft)
    starting ────────────────▶ ready ◀────────▶ busy ◀─────────────────────▶ soft_restarting
       ▲  ▲                      │ RecycleDue    │ Faulted, Silent             │ Silent, Faulted
       │  │                      ▼               ▼                             │
       │  └──── Died ─────── recycling        poisoned ◀───────────────────────┘
       │ Died, with backoff                      │ Died
       └─────────────────────────────────────────┤
                                                 │ faults on several files,
                                                 │ or one that needs a person or a probe
         ProbePassed                             ▼
    half_open ◀──────────────────── device_open, or cpu_only if the CPU may take over
       │  │ Died                         ▲
       │  └──────────────────────────────┘
       └─ Worked ─▶ busy: the circuit is closed

A ready worker that is idle for long is ended: unloaded, until TaskAssigned starts another.
Names of the events in `domain.device_health`: Started is WorkerStarted, Busy is TaskAssigned,
Faulted is FaultReported, Silent is ProgressStopped, Died is ProcessExited, Worked is
ChunkSucceeded. Time and randomness are arguments; actions are returned as values.
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
    UnloadDue,
    WorkerStarted,
)
from speakeasyd.domain.devices import CPU
from speakeasyd.domain.fault import Diagnosis, FaultKind, Remedy
from speakeasyd.domain.job import JobId
from speakeasyd.domain.retry import compute_backoff_ceiling

_OPENS_AT_ONCE = frozenset({Remedy.PERSON, Remedy.PROBE, Remedy.CPU_FOR_GOOD})
"""Remedies of faults that open the circuit at once, whatever the device was working on."""


_MOVES: Mapping[tuple[DeviceState, type[RecoveryEvent]], DeviceState] = {
    (DeviceState.STARTING, WorkerStarted): DeviceState.READY,
    (DeviceState.READY, TaskAssigned): DeviceState.BUSY,
    (DeviceState.BUSY, TasksFinished): DeviceState.READY,
    (DeviceState.SOFT_RESTARTING, ModelVerified): DeviceState.BUSY,
}
"""The transitions without actions."""


def advance_recovery(
    health: DeviceHealth,
    event: RecoveryEvent,
    *,
    now: float,
    random_fraction: float,
    policy: RecoveryPolicy,
) -> Transition:
    """Return the next state of a device and the actions to carry out.

    `now`: monotonic seconds. `random_fraction`: at least 0 and below 1, for the jitter of backoff.
    """
    state = health.state
    done: Transition = health, ()  # for an event that changes nothing
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
            case UnloadDue() if state is DeviceState.READY:
                done = replace(health, state=DeviceState.UNLOADED), (DrainWorker(),)
            case TaskAssigned() if state is DeviceState.UNLOADED:
                done = replace(health, state=DeviceState.STARTING), (StartWorker(0.0),)
            case ProcessExited() if state not in OPEN and state is not DeviceState.UNLOADED:
                done = _on_exit(
                    health, event, now=now, random_fraction=random_fraction, policy=policy
                )
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
    """Reset the failure counts; a half-open circuit closes."""
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
    """Allow up to `soft_limit` soft restarts; every other fault ends the process."""
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
    grace_s = 0.0 if isinstance(event, ProgressStopped) else policy.leave_s
    return replace(health, state=DeviceState.POISONED, cause=event.diagnosis), (
        KillWorker(grace_s),
    )


def _on_exit(
    health: DeviceHealth,
    event: ProcessExited,
    *,
    now: float,
    random_fraction: float,
    policy: RecoveryPolicy,
) -> Transition:
    """Start a new worker after a backoff, or open the circuit after too many faults."""
    if health.state is DeviceState.RECYCLING:
        return replace(health, state=DeviceState.STARTING), (StartWorker(0.0),)
    unexplained = 0 if event.suspects else health.unexplained + 1
    after = replace(
        health, failures=health.failures + 1, unexplained=unexplained, soft=0, cause=event.diagnosis
    )
    wait = random_fraction * compute_backoff_ceiling(
        after.failures, base=policy.restart_s, limit=policy.restart_max_s
    )
    restart = StartWorker(max(policy.restart_min_s, wait))
    if _is_unrelated_to_device(event.diagnosis):
        return replace(
            after, state=DeviceState.HALF_OPEN if health.on_trial else DeviceState.STARTING
        ), (restart,)
    if health.on_trial or event.diagnosis.remedy in _OPENS_AT_ONCE:
        return _open_circuit(after, policy)
    recent = tuple(fault for fault in health.faults if now - fault.at < policy.window_s)
    after = replace(after, faults=(*recent, RecordedFault(now, event.suspects)))
    if count_uncorrelated_faults(after.faults) >= policy.faults_to_open:
        return _open_circuit(after, policy)
    return replace(after, state=DeviceState.STARTING), (restart,)


def _is_unrelated_to_device(diagnosis: Diagnosis) -> bool:
    """Return whether the device is not the cause of the fault."""
    return (
        diagnosis.kind in {FaultKind.KILLED, FaultKind.FILE}
        or diagnosis.remedy is Remedy.OTHER_MODEL
    )


def _open_circuit(health: DeviceHealth, policy: RecoveryPolicy) -> Transition:
    """Open the circuit until a probe passes. No probe is scheduled if it could not help."""
    opened = replace(
        health,
        state=DeviceState.CPU_ONLY if policy.cpu_stand_in else DeviceState.DEVICE_OPEN,
        on_trial=False,
    )
    match health.cause.remedy if health.cause else Remedy.PROBE:
        case Remedy.CPU_FOR_GOOD:
            return opened, ()
        # Without an unexplained failure, the defect may occur with certain files only
        case Remedy.REINSTALL if health.unexplained:
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
    """Return whether waiting does not help.

    True if a person has to fix something, or if new workers and probes failed too.
    """
    if health.state not in OPEN or not health.cause:
        return False
    match health.cause.remedy:
        case Remedy.PERSON | Remedy.CPU_FOR_GOOD:
            return True
        case Remedy.REINSTALL if health.unexplained:
            return True
        case _:
            return health.unexplained > policy.faults_to_open


def count_uncorrelated_faults(faults: tuple[RecordedFault, ...]) -> int:
    """Return how many faults have no file in common: the faults of one poison file count as one."""
    suspected: set[JobId] = set()
    count = 0
    for fault in faults:
        if not fault.jobs & suspected:
            count += 1
        suspected |= fault.jobs
    return count


# --- poison chunks ---


class PoisonDecision(StrEnum):
    """What to do with a chunk after the death of a worker."""

    TRY_ALONE = "try_alone"
    """Retry it with no other chunk on the device: GPU errors surface late, so others may be it."""
    TRY_ON_CPU = "try_on_cpu"
    """It ended a new worker while alone on the GPU: retry it on the CPU."""
    MARK_GAP = "mark_gap"
    """It cannot be transcribed: leave a marked gap and continue."""
    FAIL = "fail"
    """It cannot be transcribed: the job fails."""


class PoisonPolicy(Protocol):
    """The settings about poison chunks."""

    @property
    def cpu_fallback(self) -> bool: ...

    @property
    def on_poison(self) -> Literal["fail", "gap"]: ...


def decide_poison(*, strikes: int, device: str, settings: PoisonPolicy) -> PoisonDecision:
    """Return what to do with a chunk after this many strikes; `device`: the one the pool uses."""
    if strikes < 2:
        return PoisonDecision.TRY_ALONE
    if strikes == 2 and settings.cpu_fallback and device != CPU:
        return PoisonDecision.TRY_ON_CPU
    return PoisonDecision.MARK_GAP if settings.on_poison == "gap" else PoisonDecision.FAIL
