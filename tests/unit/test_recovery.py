"""The recovery of a device: it always goes on, never spins, and blames nobody too early."""

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


def jobs(*numbers: int) -> frozenset[JobId]:
    return frozenset(map(JobId, numbers))


def walk(
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


def after(
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


# --- what only a person can mend --------------------------------------------------------------------------------------


def test_a_defect_is_tried_a_few_times_and_then_no_more() -> None:
    health = DeviceHealth()
    for _ in range(POLICY.faults_to_open - 1):
        health, actions = advance_recovery(
            health, ProcessExited(DEFECT, jobs()), now=0.0, random_fraction=1.0, policy=POLICY
        )
        assert [type(action) for action in actions] == [StartWorker]
        assert not needs_person(health, POLICY)
    health, actions = advance_recovery(
        health, ProcessExited(DEFECT, jobs()), now=0.0, random_fraction=1.0, policy=POLICY
    )
    assert (health.state, actions) == (DeviceState.DEVICE_OPEN, ())
    assert needs_person(health, POLICY)


def test_a_defect_that_only_some_files_meet_does_not_stop_the_others() -> None:
    health = walk(
        *(ProcessExited(DEFECT, jobs(number)) for number in range(POLICY.faults_to_open - 1))
    )
    health, actions = advance_recovery(
        health, ProcessExited(DEFECT, jobs(9)), now=0.0, random_fraction=1.0, policy=POLICY
    )
    assert [type(action) for action in actions] == [ScheduleProbe]
    assert not needs_person(health, POLICY)


@pytest.mark.parametrize("cause", [CRASHED, GONE, LOST, classify_fault()])
def test_workers_that_never_get_to_work_need_a_person_in_the_end(cause: Diagnosis) -> None:
    health = DeviceHealth()
    for _ in range(POLICY.faults_to_open + 1):
        health = walk(ProcessExited(cause, jobs()), ProbePassed(), WorkerStarted(), health=health)
    health = walk(ProcessExited(cause, jobs()), health=health)
    assert needs_person(health, POLICY)
    assert not needs_person(
        walk(ProbePassed(), WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=health),
        POLICY,
    )


# --- the table --------------------------------------------------------------------------------------------------------

BUSY = walk(WorkerStarted(), TaskAssigned())

SOFT = walk(WorkerStarted(), TaskAssigned(), FaultReported(FULL, soft=True))
STOPPED = walk(WorkerStarted(), TaskAssigned(), ProgressStopped(HUNG))
UNLOADED = walk(WorkerStarted(), UnloadDue())
OPENED = walk(ProcessExited(GONE, jobs()))
ON_TRIAL = walk(ProcessExited(GONE, jobs()), ProbePassed())

MOVES: list[tuple[DeviceHealth, RecoveryEvent, DeviceState, tuple[RecoveryAction, ...]]] = [
    (DeviceHealth(), WorkerStarted(), DeviceState.READY, ()),
    (walk(WorkerStarted()), TaskAssigned(), DeviceState.BUSY, ()),
    (BUSY, TasksFinished(), DeviceState.READY, ()),
    (BUSY, ChunkSucceeded(), DeviceState.BUSY, ()),
    (BUSY, FaultReported(LOST, soft=False), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, FaultReported(FULL, soft=True), DeviceState.SOFT_RESTARTING, ()),
    (DeviceHealth(), FaultReported(FULL, soft=True), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (BUSY, ProcessExited(LOST, jobs(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (BUSY, ProcessExited(NO_LIBRARY, jobs()), DeviceState.DEVICE_OPEN, (ScheduleProbe(300.0),)),
    (BUSY, ProcessExited(GONE, jobs()), DeviceState.DEVICE_OPEN, (ScheduleProbe(10.0),)),
    (BUSY, ProcessExited(OLD_CARD, jobs()), DeviceState.DEVICE_OPEN, ()),
    (BUSY, ProcessExited(NO_MODEL, jobs()), DeviceState.STARTING, (StartWorker(1.0),)),
    (BUSY, RecycleDue(), DeviceState.BUSY, ()),
    (walk(WorkerStarted()), RecycleDue(), DeviceState.RECYCLING, (DrainWorker(),)),
    (walk(WorkerStarted(), RecycleDue()), ProcessExited(LOST, jobs()), DeviceState.STARTING, (StartWorker(0.0),)),
    (walk(WorkerStarted(), RecycleDue()), ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (walk(WorkerStarted()), UnloadDue(), DeviceState.UNLOADED, (DrainWorker(),)),
    (BUSY, UnloadDue(), DeviceState.BUSY, ()),
    (UNLOADED, ProcessExited(LOST, jobs()), DeviceState.UNLOADED, ()),
    (UNLOADED, TaskAssigned(), DeviceState.STARTING, (StartWorker(0.0),)),
    (UNLOADED, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (SOFT, ModelVerified(), DeviceState.BUSY, ()),
    (SOFT, ProgressStopped(HUNG), DeviceState.POISONED, (KillWorker(0.0),)),
    (SOFT, FaultReported(FULL, soft=True), DeviceState.SOFT_RESTARTING, ()),
    (SOFT, FaultReported(LOST, soft=False), DeviceState.POISONED, (KillWorker(3.0),)),
    (SOFT, TasksFinished(), DeviceState.SOFT_RESTARTING, ()),
    (SOFT, ProcessExited(LOST, jobs(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (STOPPED, ModelVerified(), DeviceState.POISONED, ()),
    (STOPPED, ProgressStopped(HUNG), DeviceState.POISONED, ()),
    (STOPPED, ProcessExited(HUNG, jobs(1)), DeviceState.STARTING, (StartWorker(1.0),)),
    (OPENED, ProbePassed(), DeviceState.HALF_OPEN, (StartWorker(0.0),)),
    (OPENED, ProbeFailed(GONE), DeviceState.DEVICE_OPEN, (ScheduleProbe(20.0),)),
    (OPENED, ProbeFailed(NO_LIBRARY), DeviceState.DEVICE_OPEN, (ScheduleProbe(300.0),)),
    (ON_TRIAL, ChunkSucceeded(), DeviceState.BUSY, ()),
    (ON_TRIAL, ProcessExited(LOST, jobs(1)), DeviceState.DEVICE_OPEN, (ScheduleProbe(20.0),)),
    (ON_TRIAL, ProcessExited(NO_MODEL, jobs()), DeviceState.HALF_OPEN, (StartWorker(2.0),)),
    (ON_TRIAL, FaultReported(LOST, soft=True), DeviceState.POISONED, (KillWorker(3.0),)),
    (BUSY, StopRequested(), DeviceState.STOPPED, (DrainWorker(),)),
    (walk(StopRequested()), ProcessExited(LOST, jobs(1)), DeviceState.STOPPED, ()),
    (walk(StopRequested()), StopRequested(), DeviceState.STOPPED, ()),
]  # fmt: skip


@pytest.mark.parametrize(("health", "event", "state", "actions"), MOVES)
def test_moves(
    health: DeviceHealth,
    event: RecoveryEvent,
    state: DeviceState,
    actions: tuple[RecoveryAction, ...],
) -> None:
    assert after(health, event) == (state, actions)


def test_the_cpu_stands_in_only_if_allowed() -> None:
    allowed = replace(POLICY, cpu_stand_in=True)
    assert after(BUSY, ProcessExited(GONE, jobs()), policy=allowed)[0] is DeviceState.CPU_ONLY
    assert (
        after(walk(ProcessExited(GONE, jobs()), policy=allowed), ProbePassed(), policy=allowed)[0]
        is DeviceState.HALF_OPEN
    )


def test_a_fault_on_trial_opens_the_circuit_again() -> None:
    trial = walk(ProcessExited(GONE, jobs()), ProbePassed(), FaultReported(LOST, soft=False))
    assert after(trial, ProcessExited(LOST, jobs(1)))[0] is DeviceState.DEVICE_OPEN


def test_a_closed_circuit_forgets() -> None:
    assert walk(ProcessExited(GONE, jobs()), ProbePassed(), ChunkSucceeded()) == DeviceHealth(
        state=DeviceState.BUSY
    )


def test_waits_grow_with_failures_in_a_row_and_shrink_after_work() -> None:
    policy = replace(POLICY, faults_to_open=100)
    health, waits = DeviceHealth(), []
    for turn in range(8):
        health, actions = advance_recovery(
            health, ProcessExited(LOST, jobs(turn)), now=0.0, random_fraction=1.0, policy=policy
        )
        waits += [action.after_s for action in actions if isinstance(action, StartWorker)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    recovered = walk(WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=health)
    assert after(recovered, ProcessExited(LOST, jobs(9)), policy=policy) == (
        DeviceState.STARTING,
        (StartWorker(1.0),),
    )


def test_soft_restarts_in_a_row_are_bounded() -> None:
    health = BUSY
    for _ in range(POLICY.soft_limit):
        health = walk(FaultReported(FULL, soft=True), ModelVerified(), health=health)
        assert health.state is DeviceState.BUSY
    assert after(health, FaultReported(FULL, soft=True))[0] is DeviceState.POISONED


# --- which faults condemn the device ----------------------------------------------------------------------------------


def test_faults_on_different_files_open_the_circuit() -> None:
    twice = walk(ProcessExited(LOST, jobs(1)), ProcessExited(LOST, jobs(2)))
    assert twice.state is DeviceState.STARTING
    assert after(twice, ProcessExited(LOST, jobs(3)))[0] is DeviceState.DEVICE_OPEN


def test_one_file_never_condemns_the_device() -> None:
    health = walk(*[ProcessExited(LOST, jobs(7, other)) for other in range(20)])
    assert health.state is DeviceState.STARTING


def test_a_worker_killed_from_outside_says_nothing_of_its_device() -> None:
    """However often, on trial or not: a fresh worker comes, after a wait that grows."""
    assert walk(*[ProcessExited(KILLED, jobs()) for _ in range(20)]).state is DeviceState.STARTING
    trial = walk(ProcessExited(GONE, jobs()), ProbePassed(), ProcessExited(KILLED, jobs()))
    assert (trial.state, trial.on_trial) == (DeviceState.HALF_OPEN, True)


def test_old_faults_are_forgotten() -> None:
    health = walk(ProcessExited(LOST, jobs(1)), ProcessExited(LOST, jobs(2)))
    assert (
        after(health, ProcessExited(LOST, jobs(3)), now=POLICY.window_s)[0] is DeviceState.STARTING
    )


@pytest.mark.parametrize("diagnosis", [BAD_FILE, NO_MODEL])
def test_neither_files_nor_models_are_held_against_the_device(diagnosis: Diagnosis) -> None:
    assert (
        walk(*[ProcessExited(diagnosis, jobs(turn)) for turn in range(20)]).state
        is DeviceState.STARTING
    )


@given(
    st.lists(st.frozensets(st.integers(1, 6).map(JobId), max_size=3), max_size=8),
    st.integers(1, 6).map(JobId),
)
def test_a_common_file_explains_all_its_faults(
    suspects: list[frozenset[JobId]], poison: JobId
) -> None:
    assert (
        count_uncorrelated_faults(tuple(RecordedFault(0.0, jobs | {poison}) for jobs in suspects))
        <= 1
    )
    assert count_uncorrelated_faults(tuple(RecordedFault(0.0, jobs) for jobs in suspects)) <= len(
        suspects
    )


# --- whatever comes ---------------------------------------------------------------------------------------------------

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


def ends_for_good(health: DeviceHealth) -> bool:
    """Whether no probe can tell that it is mended."""
    return health.cause == OLD_CARD or (health.cause == DEFECT and health.unexplained > 0)


@given(moments, st.booleans())
@settings(deadline=None)
def test_it_always_goes_on_and_never_spins(
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
            case ProcessExited() if before.state not in OPEN:  # something follows every death, once
                final = health.state in OPEN and ends_for_good(health)
                assert len(starts) + len(probes) == (0 if final else 1)
                if before.state is not DeviceState.RECYCLING:
                    assert all(start.after_s >= policy.restart_min_s for start in starts)
                    assert health.failures == before.failures + 1
            case ProbePassed() | ProbeFailed() if before.state in OPEN:
                final = isinstance(event, ProbeFailed) and ends_for_good(health)
                assert len(starts) + len(probes) == (0 if final else 1)
            case _:  # a worker is begun, and a device probed, for no other reason
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


# --- a chunk that workers died on -------------------------------------------------------------------------------------


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
def test_verdicts(
    strikes: int, device: str, cpu_fallback: bool, on_poison: str, expected: PoisonDecision
) -> None:
    given_up = RecoverySettings.model_validate(
        {"cpu_fallback": cpu_fallback, "on_poison": on_poison}
    )
    assert decide_poison(strikes=strikes, device=device, settings=given_up) is expected


@given(st.sampled_from(["cpu", "cuda:0"]), st.booleans(), st.sampled_from(["gap", "fail"]))
def test_poison_costs_at_most_three_workers_and_nobody_is_condemned_unheard(
    device: str, cpu_fallback: bool, on_poison: str
) -> None:
    mercy = RecoverySettings.model_validate({"cpu_fallback": cpu_fallback, "on_poison": on_poison})
    verdicts = [
        decide_poison(strikes=strikes, device=device, settings=mercy) for strikes in range(1, 5)
    ]
    assert verdicts[0] is PoisonDecision.TRY_ALONE
    assert all(each in {PoisonDecision.MARK_GAP, PoisonDecision.FAIL} for each in verdicts[2:])


# --- a whole day's work, as a model -----------------------------------------------------------------------------------


@dataclass
class Day:
    """Jobs of three chunks on one GPU. A poison chunk kills every worker; others die of what nobody is to blame for."""

    poison: tuple[int, int] | None
    mercy: RecoverySettings
    cpu_can: bool  # the CPU survives the poison
    bad_luck: list[int]  # numbers of the batches in which a worker dies for no reason of the work's
    health: DeviceHealth = field(default_factory=lambda: walk(WorkerStarted()))
    now: float = 0.0
    batches: int = 0
    deaths: int = 0
    strikes: Counter[tuple[int, int]] = field(default_factory=Counter)
    died_alone: Counter[tuple[int, int]] = field(default_factory=Counter)
    done: set[tuple[int, int]] = field(default_factory=set)
    given_up: set[tuple[int, int]] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    def live(self) -> None:
        while todo := [(job, n) for job in range(1, 5) for n in range(3) if self.needs(job, n)]:
            assert self.batches < 100, "it never ends"
            suspects = [chunk for chunk in todo if self.strikes[chunk]]
            self.try_one(suspects[0]) if suspects else self.compute(todo[::3][:3], "cuda:0")

    def needs(self, job: int, n: int) -> bool:
        return (job, n) not in self.done | self.given_up and job not in self.failed

    def try_one(self, chunk: tuple[int, int]) -> None:
        match decide_poison(strikes=self.strikes[chunk], device="cuda:0", settings=self.mercy):
            case PoisonDecision.TRY_ALONE:
                self.compute([chunk], "cuda:0")
            case PoisonDecision.TRY_ON_CPU:
                self.compute([chunk], "cpu")
            case PoisonDecision.MARK_GAP:
                self.given_up.add(chunk)
            case PoisonDecision.FAIL:
                self.given_up.add(chunk)
                self.failed.add(chunk[0])

    def compute(self, batch: list[tuple[int, int]], device: str) -> None:
        self.batches += 1
        poisoned = self.poison in batch and not (device == "cpu" and self.cpu_can)
        if not poisoned and self.batches not in self.bad_luck:
            self.done.update(batch)
            return
        self.deaths += 1
        self.strikes.update(batch)
        self.died_alone.update(batch if len(batch) == 1 else [])
        if device == "cuda:0":
            self.recover(ProcessExited(LOST, frozenset(JobId(job) for job, _ in batch)))

    def recover(self, died: ProcessExited) -> None:
        """Until there is a worker again; every wait is a real one."""
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
        self.health = walk(WorkerStarted(), TaskAssigned(), ChunkSucceeded(), health=self.health)


@given(
    poison=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(0, 2))),
    cpu_fallback=st.booleans(),
    on_poison=st.sampled_from(["gap", "fail"]),
    cpu_can=st.booleans(),
    bad_luck=st.lists(st.integers(1, 20), max_size=4, unique=True),
)
def test_all_work_ends_nobody_pays_for_a_neighbour_and_poison_costs_three_workers(
    poison: tuple[int, int] | None,
    cpu_fallback: bool,
    on_poison: str,
    cpu_can: bool,
    bad_luck: list[int],
) -> None:
    mercy = RecoverySettings.model_validate({"cpu_fallback": cpu_fallback, "on_poison": on_poison})
    day = Day(poison, mercy, cpu_can, bad_luck)
    day.live()
    assert day.deaths <= 3 + len(bad_luck)
    assert all(day.died_alone[chunk] > cpu_fallback for chunk in day.given_up)
    if not bad_luck:
        assert day.given_up <= {poison}
    if poison and cpu_fallback and cpu_can and not bad_luck:
        assert poison in day.done
