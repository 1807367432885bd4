"""The recovery of a device: it always continues, never loops without waits, and blames no file too
early.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.config import RecoverySettings
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
    RecoveryAction,
    RecoveryEvent,
    RecoveryPolicy,
    RecycleDue,
    ScheduleProbe,
    StartWorker,
    StopRequested,
    TaskAssigned,
    TasksFinished,
    UnloadDue,
    WorkerStarted,
)
from speakeasyd.domain.fault import Diagnosis, classify_fault
from speakeasyd.domain.job import JobId
from speakeasyd.domain.recovery import (
    PoisonDecision,
    advance_recovery,
    count_uncorrelated_faults,
    decide_poison,
    needs_person,
)
from speakeasyd.services.incidents import ACTIONS

POLICY = RecoveryPolicy()
LOST = classify_fault(error="CUDA failed with error an illegal memory access was encountered")
FULL = classify_fault(error="CUDA failed with error out of memory")
GONE = classify_fault(error="CUDA failed with error unknown error")
KILLED = classify_fault(exit_status=-9)
NO_LIBRARY = classify_fault(error="Library libcublas.so.12 is not found or cannot be loaded")
OLD_CARD = classify_fault(error="cudaErrorNoKernelImageForDevice")
NO_MODEL = classify_fault(error="ModelUnavailable: no model")
BAD_FILE = classify_fault(phase="decode", error="av.error.InvalidDataError: nonsense")
HUNG = classify_fault(silent=True)
DEFECT = classify_fault(
    phase="canary", error="TypeError: open() got an unexpected keyword argument"
)
CRASHED = classify_fault(exit_status=-11)
DIAGNOSES = [
    LOST,
    FULL,
    GONE,
    DEFECT,
    NO_LIBRARY,
    OLD_CARD,
    NO_MODEL,
    BAD_FILE,
    HUNG,
    classify_fault(),
]


def build_suspects(*numbers: int) -> frozenset[JobId]:
    return frozenset(map(JobId, numbers))


def replay(
    *events: RecoveryEvent,
    health: DeviceHealth | None = None,
    policy: RecoveryPolicy = POLICY,
    random_fraction: float = 1.0,
) -> DeviceHealth:
    health = health or DeviceHealth()
    for event in events:
        health, _ = advance_recovery(
            health, event, now=0.0, random_fraction=random_fraction, policy=policy
        )
    return health


def step(
    health: DeviceHealth,
    event: RecoveryEvent,
    *,
    now: float = 0.0,
    random_fraction: float = 1.0,
    policy: RecoveryPolicy = POLICY,
) -> tuple[DeviceState, tuple[RecoveryAction, ...]]:
    health, actions = advance_recovery(
        health, event, now=now, random_fraction=random_fraction, policy=policy
    )
    return health.state, actions


# --- faults that need a person


def test_a_defect_is_retried_only_a_few_times() -> None:
    health = DeviceHealth()
    for _ in range(POLICY.faults_to_open - 1):
        health, actions = advance_recovery(
            health,
            ProcessExited(DEFECT, build_suspects()),
            now=0.0,
            random_fraction=1.0,
            policy=POLICY,
        )
        assert [type(action) for action in actions] == [StartWorker]
        assert not needs_person(health, POLICY)
    health, actions = advance_recovery(
        health, ProcessExited(DEFECT, build_suspects()), now=0.0, random_fraction=1.0, policy=POLICY
    )
    assert (health.state, actions) == (DeviceState.DEVICE_OPEN, ())
    assert needs_person(health, POLICY)


def test_a_defect_with_some_files_does_not_stop_others() -> None:
    health = replay(
        *(
            ProcessExited(DEFECT, build_suspects(number))
            for number in range(POLICY.faults_to_open - 1)
        )
    )
    health, actions = advance_recovery(
        health,
        ProcessExited(DEFECT, build_suspects(9)),
        now=0.0,
        random_fraction=1.0,
        policy=POLICY,
    )
    assert [type(action) for action in actions] == [ScheduleProbe]
    assert not needs_person(health, POLICY)


@pytest.mark.parametrize("cause", [CRASHED, GONE, LOST, classify_fault()])
def test_workers_that_never_start_work_need_a_person(cause: Diagnosis) -> None:
    health = DeviceHealth()
    for _ in range(POLICY.faults_to_open + 1):
        health = replay(
            ProcessExited(cause, build_suspects()), ProbePassed(), WorkerStarted(), health=health
        )
    health = replay(ProcessExited(cause, build_suspects()), health=health)
    assert needs_person(health, POLICY)
    assert not needs_person(
        replay(ProbePassed(), WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=health),
        POLICY,
    )


# --- the table

BUSY = replay(WorkerStarted(), TaskAssigned())

SOFT = replay(WorkerStarted(), TaskAssigned(), FaultReported(FULL, soft=True))
STOPPED = replay(WorkerStarted(), TaskAssigned(), ProgressStopped(HUNG))
UNLOADED = replay(WorkerStarted(), UnloadDue())
OPENED = replay(ProcessExited(GONE, build_suspects()))
HALF_OPEN = replay(ProcessExited(GONE, build_suspects()), ProbePassed())

TRANSITIONS: list[tuple[DeviceHealth, RecoveryEvent, DeviceState, tuple[RecoveryAction, ...]]] = [
    (DeviceHealth(), WorkerStarted(), DeviceState.READY, ()),
    (replay(WorkerStarted()), TaskAssigned(), DeviceState.BUSY, ()),
    (BUSY, TasksFinished(), DeviceState.READY, ()),
    (BUSY, ChunkSucceeded(), DeviceState.BUSY, ()),
    (BUSY, FaultReported(LOST, soft=False), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, FaultReported(FULL, soft=True), DeviceState.SOFT_RESTARTING, ()),
    (DeviceHealth(), FaultReported(FULL, soft=True), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (BUSY, ProcessExited(LOST, build_suspects(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (BUSY, ProcessExited(NO_LIBRARY, build_suspects()), DeviceState.DEVICE_OPEN, (ScheduleProbe(300.0),)),
    (BUSY, ProcessExited(GONE, build_suspects()), DeviceState.DEVICE_OPEN, (ScheduleProbe(10.0),)),
    (BUSY, ProcessExited(OLD_CARD, build_suspects()), DeviceState.DEVICE_OPEN, ()),
    (BUSY, ProcessExited(NO_MODEL, build_suspects()), DeviceState.STARTING, (StartWorker(1.0),)),
    (BUSY, RecycleDue(), DeviceState.BUSY, ()),
    (replay(WorkerStarted()), RecycleDue(), DeviceState.RECYCLING, (DrainWorker(),)),
    (
        replay(WorkerStarted(), RecycleDue()),
        ProcessExited(LOST, build_suspects()),
        DeviceState.STARTING,
        (StartWorker(0.0),),
    ),
    (replay(WorkerStarted(), RecycleDue()), ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (replay(WorkerStarted()), UnloadDue(), DeviceState.UNLOADED, (DrainWorker(),)),
    (BUSY, UnloadDue(), DeviceState.BUSY, ()),
    (UNLOADED, ProcessExited(LOST, build_suspects()), DeviceState.UNLOADED, ()),
    (UNLOADED, TaskAssigned(), DeviceState.STARTING, (StartWorker(0.0),)),
    (UNLOADED, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (SOFT, ModelVerified(), DeviceState.BUSY, ()),
    (SOFT, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (SOFT, FaultReported(FULL, soft=True), DeviceState.SOFT_RESTARTING, ()),
    (SOFT, FaultReported(LOST, soft=False), DeviceState.POISONED, (KillWorker(3.0),)),
    (SOFT, TasksFinished(), DeviceState.SOFT_RESTARTING, ()),
    (SOFT, ProcessExited(LOST, build_suspects(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (STOPPED, ModelVerified(), DeviceState.POISONED, ()),
    (STOPPED, ProgressStopped(HUNG), DeviceState.POISONED, ()),
    (STOPPED, ProcessExited(HUNG, build_suspects(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (OPENED, ProbePassed(), DeviceState.HALF_OPEN, (StartWorker(0.0),)),
    (OPENED, ProbeFailed(GONE), DeviceState.DEVICE_OPEN, (ScheduleProbe(20.0),)),
    (OPENED, ProbeFailed(NO_LIBRARY), DeviceState.DEVICE_OPEN, (ScheduleProbe(300.0),)),
    (HALF_OPEN, ChunkSucceeded(), DeviceState.BUSY, ()),
    (HALF_OPEN, ProcessExited(LOST, build_suspects(1)), DeviceState.DEVICE_OPEN, (ScheduleProbe(20.0),)),
    (HALF_OPEN, ProcessExited(NO_MODEL, build_suspects()), DeviceState.HALF_OPEN, (StartWorker(2.0),)),
    (HALF_OPEN, FaultReported(LOST, soft=True), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, StopRequested(), DeviceState.STOPPED, (DrainWorker(),)),
    (replay(StopRequested()), ProcessExited(LOST, build_suspects(1)), DeviceState.STOPPED, ()),
    (replay(StopRequested()), StopRequested(), DeviceState.STOPPED, ()),
]  # fmt: skip


@pytest.mark.parametrize(("health", "event", "state", "actions"), TRANSITIONS)
def test_transitions(
    health: DeviceHealth,
    event: RecoveryEvent,
    state: DeviceState,
    actions: tuple[RecoveryAction, ...],
) -> None:
    assert step(health, event) == (state, actions)


def test_the_cpu_replaces_a_device_only_if_allowed() -> None:
    allowed = replace(POLICY, cpu_stand_in=True)
    assert (
        step(BUSY, ProcessExited(GONE, build_suspects()), policy=allowed)[0] is DeviceState.CPU_ONLY
    )
    assert (
        step(
            replay(ProcessExited(GONE, build_suspects()), policy=allowed),
            ProbePassed(),
            policy=allowed,
        )[0]
        is DeviceState.HALF_OPEN
    )


def test_a_fault_while_half_open_opens_the_circuit_again() -> None:
    trial = replay(
        ProcessExited(GONE, build_suspects()), ProbePassed(), FaultReported(LOST, soft=False)
    )
    assert step(trial, ProcessExited(LOST, build_suspects(1)))[0] is DeviceState.DEVICE_OPEN


def test_a_closed_circuit_resets_its_counts() -> None:
    assert replay(
        ProcessExited(GONE, build_suspects()), ProbePassed(), ChunkSucceeded()
    ) == DeviceHealth(state=DeviceState.BUSY)


def test_waits_grow_with_consecutive_failures() -> None:
    policy = replace(POLICY, faults_to_open=100)
    health, waits = DeviceHealth(), []
    for turn in range(8):
        health, actions = advance_recovery(
            health,
            ProcessExited(LOST, build_suspects(turn)),
            now=0.0,
            random_fraction=1.0,
            policy=policy,
        )
        waits += [action.after_s for action in actions if isinstance(action, StartWorker)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    recovered = replay(WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=health)
    assert step(recovered, ProcessExited(LOST, build_suspects(9)), policy=policy) == (
        DeviceState.STARTING,
        (StartWorker(1.0),),
    )


def test_consecutive_soft_restarts_are_bounded() -> None:
    health = BUSY
    for _ in range(POLICY.soft_limit):
        health = replay(FaultReported(FULL, soft=True), ModelVerified(), health=health)
        assert health.state is DeviceState.BUSY
    assert step(health, FaultReported(FULL, soft=True))[0] is DeviceState.POISONED


# --- the circuit breaker


def test_faults_on_different_files_open_the_circuit() -> None:
    twice = replay(ProcessExited(LOST, build_suspects(1)), ProcessExited(LOST, build_suspects(2)))
    assert twice.state is DeviceState.STARTING
    assert step(twice, ProcessExited(LOST, build_suspects(3)))[0] is DeviceState.DEVICE_OPEN


def test_faults_of_one_file_never_open_the_circuit() -> None:
    health = replay(*[ProcessExited(LOST, build_suspects(7, other)) for other in range(20)])
    assert health.state is DeviceState.STARTING


def test_kills_from_outside_do_not_count_against_the_device() -> None:
    """A new worker starts after a growing wait, however often it happens."""
    assert (
        replay(*[ProcessExited(KILLED, build_suspects()) for _ in range(20)]).state
        is DeviceState.STARTING
    )
    trial = replay(
        ProcessExited(GONE, build_suspects()),
        ProbePassed(),
        ProcessExited(KILLED, build_suspects()),
    )
    assert (trial.state, trial.on_trial) == (DeviceState.HALF_OPEN, True)


def test_old_faults_do_not_count() -> None:
    health = replay(ProcessExited(LOST, build_suspects(1)), ProcessExited(LOST, build_suspects(2)))
    assert (
        step(health, ProcessExited(LOST, build_suspects(3)), now=POLICY.window_s)[0]
        is DeviceState.STARTING
    )


@pytest.mark.parametrize("diagnosis", [BAD_FILE, NO_MODEL])
def test_faults_of_files_and_models_do_not_count_against_the_device(diagnosis: Diagnosis) -> None:
    assert (
        replay(*[ProcessExited(diagnosis, build_suspects(turn)) for turn in range(20)]).state
        is DeviceState.STARTING
    )


@given(
    st.lists(st.frozensets(st.integers(1, 6).map(JobId), max_size=3), max_size=8),
    st.integers(1, 6).map(JobId),
)
def test_a_common_suspect_explains_all_faults(
    suspects: list[frozenset[JobId]], poison: JobId
) -> None:
    assert (
        count_uncorrelated_faults(tuple(RecordedFault(0.0, jobs | {poison}) for jobs in suspects))
        <= 1
    )
    assert count_uncorrelated_faults(tuple(RecordedFault(0.0, jobs) for jobs in suspects)) <= len(
        suspects
    )


# --- arbitrary events

diagnoses = st.sampled_from(DIAGNOSES)
suspects = st.frozensets(st.integers(1, 5).map(JobId), max_size=3)
events: st.SearchStrategy[RecoveryEvent] = st.one_of(
    st.sampled_from(
        [
            WorkerStarted(),
            ModelVerified(),
            TaskAssigned(),
            TasksFinished(),
            ChunkSucceeded(),
            RecycleDue(),
            UnloadDue(),
            ProbePassed(),
        ]
    ),
    st.builds(FaultReported, diagnoses, st.booleans()),
    st.builds(ProgressStopped, diagnoses),
    st.builds(ProcessExited, diagnoses, suspects),
    st.builds(ProbeFailed, diagnoses),
)
moments = st.lists(
    st.tuples(events, st.floats(0, 100), st.floats(0, 1, exclude_max=True)), max_size=60
)


def stays_failed(health: DeviceHealth) -> bool:
    """Whether no probe can find that it is fixed."""
    return health.cause == OLD_CARD or (health.cause == DEFECT and health.unexplained > 0)


@given(moments, st.booleans())
@settings(deadline=None)
def test_it_always_continues_and_always_waits(
    moments: list[tuple[RecoveryEvent, float, float]], stand_in: bool
) -> None:
    policy = replace(POLICY, cpu_stand_in=stand_in)
    health, now = DeviceHealth(), 0.0
    for event, passed, random_fraction in moments:
        now += passed
        before = health
        health, actions = advance_recovery(
            health, event, now=now, random_fraction=random_fraction, policy=policy
        )
        starts = [action for action in actions if isinstance(action, StartWorker)]
        probes = [action for action in actions if isinstance(action, ScheduleProbe)]
        kills = [action for action in actions if isinstance(action, KillWorker)]
        assert health.soft <= policy.soft_limit
        if isinstance(event, ProcessExited) and before.state is not DeviceState.UNLOADED:
            assert health.state in ACTIONS, "an incident says what is done"
        match event:
            case ProcessExited() if before.state is DeviceState.UNLOADED:
                assert not actions
            case TaskAssigned() if before.state is DeviceState.UNLOADED:
                assert len(starts) == 1
            case ProcessExited() if before.state not in OPEN:  # exactly one consequence
                final = health.state in OPEN and stays_failed(health)
                assert len(starts) + len(probes) == (0 if final else 1)
                if before.state is not DeviceState.RECYCLING:
                    assert all(start.after_s >= policy.restart_min_s for start in starts)
                    assert health.failures == before.failures + 1
            case ProbePassed() | ProbeFailed() if before.state in OPEN:
                final = isinstance(event, ProbeFailed) and stays_failed(health)
                assert len(starts) + len(probes) == (0 if final else 1)
            case _:  # nothing else starts workers or probes
                assert not starts
                assert not probes
        if health.state is DeviceState.POISONED and before.state is not DeviceState.POISONED:
            assert kills
        assert all(0 < probe.after_s <= policy.probe_max_s for probe in probes)
        assert all(start.after_s <= policy.restart_max_s for start in starts)
    stopped, actions = advance_recovery(
        health, StopRequested(), now=now, random_fraction=0.0, policy=policy
    )
    assert stopped.state is DeviceState.STOPPED


# --- poison chunks


@pytest.mark.parametrize(
    ("strikes", "device", "cpu_fallback", "on_poison", "expected"),
    [
        (1, "cuda:0", True, "gap", PoisonDecision.TRY_ALONE),
        (2, "cuda:0", True, "gap", PoisonDecision.TRY_ON_CPU),
        (3, "cuda:0", True, "gap", PoisonDecision.MARK_GAP),
        (3, "cuda:0", True, "fail", PoisonDecision.FAIL),
        (2, "cuda:0", False, "gap", PoisonDecision.MARK_GAP),
        (1, "cpu", True, "fail", PoisonDecision.TRY_ALONE),
        (2, "cpu", True, "fail", PoisonDecision.FAIL),
        (2, "cpu", True, "gap", PoisonDecision.MARK_GAP),
    ],
)
def test_decisions_about_poison(
    strikes: int, device: str, cpu_fallback: bool, on_poison: str, expected: PoisonDecision
) -> None:
    given_up = RecoverySettings.model_validate(
        {"cpu_fallback": cpu_fallback, "on_poison": on_poison}
    )
    assert decide_poison(strikes=strikes, device=device, settings=given_up) is expected


@given(st.sampled_from(["cpu", "cuda:0"]), st.booleans(), st.sampled_from(["gap", "fail"]))
def test_poison_ends_at_most_three_workers_and_needs_proof(
    device: str, cpu_fallback: bool, on_poison: str
) -> None:
    mercy = RecoverySettings.model_validate({"cpu_fallback": cpu_fallback, "on_poison": on_poison})
    verdicts = [
        decide_poison(strikes=strikes, device=device, settings=mercy) for strikes in range(1, 5)
    ]
    assert verdicts[0] is PoisonDecision.TRY_ALONE
    assert all(each in {PoisonDecision.MARK_GAP, PoisonDecision.FAIL} for each in verdicts[2:])


# --- a simulation of a day


@dataclass
class SimulatedDay:
    """Jobs of three chunks on one GPU. A poison chunk ends every worker; others end by accident."""

    poison: tuple[int, int] | None
    mercy: RecoverySettings
    cpu_can: bool  # whether the CPU survives the poison chunk
    bad_luck: list[int]  # numbers of batches in which a worker ends by accident
    health: DeviceHealth = field(default_factory=lambda: replay(WorkerStarted()))
    now: float = 0.0
    batches: int = 0
    deaths: int = 0
    strikes: Counter[tuple[int, int]] = field(default_factory=Counter)
    died_alone: Counter[tuple[int, int]] = field(default_factory=Counter)
    done: set[tuple[int, int]] = field(default_factory=set)
    given_up: set[tuple[int, int]] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    def run(self) -> None:
        while todo := [
            (job, n) for job in range(1, 5) for n in range(3) if self.has_pending(job, n)
        ]:
            assert self.batches < 100, "it never ends"
            suspects = [chunk for chunk in todo if self.strikes[chunk]]
            self.try_alone(suspects[0]) if suspects else self.compute_batch(todo[::3][:3], "cuda:0")

    def has_pending(self, job: int, n: int) -> bool:
        return (job, n) not in self.done | self.given_up and job not in self.failed

    def try_alone(self, chunk: tuple[int, int]) -> None:
        match decide_poison(strikes=self.strikes[chunk], device="cuda:0", settings=self.mercy):
            case PoisonDecision.TRY_ALONE:
                self.compute_batch([chunk], "cuda:0")
            case PoisonDecision.TRY_ON_CPU:
                self.compute_batch([chunk], "cpu")
            case PoisonDecision.MARK_GAP:
                self.given_up.add(chunk)
            case PoisonDecision.FAIL:
                self.given_up.add(chunk)
                self.failed.add(chunk[0])

    def compute_batch(self, batch: list[tuple[int, int]], device: str) -> None:
        self.batches += 1
        poisoned = self.poison in batch and not (device == "cpu" and self.cpu_can)
        if not poisoned and self.batches not in self.bad_luck:
            self.done.update(batch)
            return
        self.deaths += 1
        self.strikes.update(batch)
        self.died_alone.update(batch if len(batch) == 1 else [])
        if device == "cuda:0":
            self.start_worker(ProcessExited(LOST, frozenset(JobId(job) for job, _ in batch)))

    def start_worker(self, died: ProcessExited) -> None:
        """Wait until there is a worker again. Every wait is counted."""
        self.health, actions = advance_recovery(
            self.health, died, now=self.now, random_fraction=0.0, policy=POLICY
        )
        while not any(isinstance(action, StartWorker) for action in actions):
            (probe,) = actions
            assert isinstance(probe, ScheduleProbe)
            self.now += probe.after_s
            self.health, actions = advance_recovery(
                self.health, ProbePassed(), now=self.now, random_fraction=0.0, policy=POLICY
            )
        self.health = replay(WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=self.health)


@given(
    poison=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(0, 2))),
    cpu_fallback=st.booleans(),
    on_poison=st.sampled_from(["gap", "fail"]),
    cpu_can=st.booleans(),
    bad_luck=st.lists(st.integers(1, 20), max_size=4, unique=True),
)
def test_a_day_completes_all_work(
    poison: tuple[int, int] | None,
    cpu_fallback: bool,
    on_poison: str,
    cpu_can: bool,
    bad_luck: list[int],
) -> None:
    mercy = RecoverySettings.model_validate({"cpu_fallback": cpu_fallback, "on_poison": on_poison})
    day = SimulatedDay(poison, mercy, cpu_can, bad_luck)
    day.run()
    assert day.deaths <= 3 + len(bad_luck)
    assert all(day.died_alone[chunk] > cpu_fallback for chunk in day.given_up)
    if not bad_luck:
        assert day.given_up <= {poison}
    if poison and cpu_fallback and cpu_can and not bad_luck:
        assert poison in day.done
