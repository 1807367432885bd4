"""Injects every kind of worker fault through the scripted engine in a real worker process."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from speakeasyd.domain.fault import FaultKind, Phase, Remedy, classify_fault
from speakeasyd.testing import FaultScript, InjectedFault
from tests.torture.daemon_under_test import DaemonUnderTest
from tests.torture.scenario import Run, Scenario
from tests.unit.test_fault import TEXTS

GPU: Mapping[str, Mapping[str, object]] = {
    "workers": {"device": "cuda:0", "batch_size": 2, "replicas": 1}
}
CHUNKS = 6  # of each file
MIDDLE_CHUNK = 3  # a chunk that shares its batch with one of another file
# for one bad file: two on the GPU, one on the CPU, one to spare
MAX_RESTARTS = 4
TERMINATION_MESSAGE = (
    "terminate called after throwing an instance of 'std::runtime_error'\n"
    "  what():  CUDA failed with error an illegal memory access was encountered\n"
)
_NEEDS_A_PERSON = {
    Remedy.OTHER_MODEL,
    Remedy.CPU_FOR_GOOD,
}
"""Remedies after which work stops until a person acts."""


def list_known_faults() -> list[InjectedFault]:
    """Return a fault for each known error message from which a daemon recovers by itself."""
    return [
        InjectedFault("fault", text=text, phase=cast(Phase, phase))
        for phase, text, kind in TEXTS
        if kind != FaultKind.FILE
        and classify_fault(phase=phase, error=text).remedy not in _NEEDS_A_PERSON
    ]


def fail_loads(run: Run) -> None:
    """Start a daemon for each message and fail its first load of the model."""
    faults = list_known_faults()
    for number in run.count_rounds(len(faults)):
        with run.create_daemon(settings=GPU) as daemon:
            inject_faults(daemon, run, [replace(faults[number], at="load")])


def fail_chunks(run: Run, *, chunk: int) -> None:
    """Run one daemon with a file for each message."""
    faults = list_known_faults()[: 3 if run.quick else None]
    with run.create_daemon(settings=GPU) as daemon:
        inject_faults(
            daemon, run, [replace(fault, chunk=chunk) for fault in faults], one_file_each=True
        )
    run.rounds += len(faults)


def repeat_fault(run: Run, *, fault: InjectedFault, rounds: int) -> None:
    faults = [replace(fault, chunk=MIDDLE_CHUNK)] * (1 if run.quick else rounds)
    with run.create_daemon(settings=GPU) as daemon:
        inject_faults(daemon, run, faults, one_file_each=True)
    run.rounds += len(faults)


def inject_faults(
    daemon: DaemonUnderTest, run: Run, faults: list[InjectedFault], *, one_file_each: bool = False
) -> None:
    """Process two good files, and one for each fault if `one_file_each`. All must be completed."""
    names = [f"good-{number}.wav" for number in range(2)]
    if one_file_each:
        faulty = [f"faulty-{number}.wav" for number in range(len(faults))]
        faults = [replace(fault, file=name) for fault, name in zip(faults, faulty, strict=True)]
        names += faulty
    daemon.write_fault_script(FaultScript(tuple(faults), chunk_s=0.01))
    for name in names:
        daemon.drop_scripted_file(name, chunks=CHUNKS, rng=run.rng)
    finish_and_measure(daemon, run)
    if (
        daemon.query_ledger("SELECT count(*) FROM incidents")[0][0] == 0
        and faults[0].action != "soft_fault"
    ):
        run.report_violation("no incident was recorded")


def finish_and_measure(daemon: DaemonUnderTest, run: Run) -> None:
    daemon.start()
    daemon.wait_for_all_jobs()
    daemon.wait_until(
        lambda: not daemon.query_ledger("SELECT 1 FROM incidents WHERE resolved_at IS NULL"),
        "the end of all incidents",
    )
    run.recovery_s += [
        row[0]
        for row in daemon.query_ledger(
            "SELECT cost_seconds FROM incidents WHERE cost_seconds IS NOT NULL"
        )
    ]
    daemon.stop()


def drop_poison_file(
    run: Run, *, fault: InjectedFault, on_poison: str, codes: frozenset[str]
) -> None:
    """Drop a file that ends every worker.

    It must be identified; the other files must be completed.
    """
    for _ in run.count_rounds(5):
        with run.create_daemon(
            settings={**GPU, "recovery": {"max_attempts": 3, "on_poison": on_poison}}
        ) as daemon:
            daemon.write_fault_script(
                FaultScript((replace(fault, file="/poison.wav", times=0),), chunk_s=0.01)
            )
            for name in ("a.wav", "b.wav", "poison.wav", "y.wav", "z.wav"):
                daemon.drop_scripted_file(name, chunks=CHUNKS, rng=run.rng)
            if codes:
                daemon.codes["poison.wav"] = codes
            else:
                daemon.texts["poison.wav"] = None  # with a gap
            finish_and_measure(daemon, run)
            if daemon.query_ledger("SELECT count(*) FROM incidents")[0][0] > MAX_RESTARTS:
                run.report_violation("one bad file ended too many workers")


def _build_scenario(
    name: str, description: str, fault: InjectedFault, *, rounds: int = 5
) -> Scenario:
    return Scenario(name, description, lambda run: repeat_fault(run, fault=fault, rounds=rounds))


REPEATED_FAULTS = (
    _build_scenario("abort", "the worker aborts", InjectedFault("abort")),
    _build_scenario(
        "uncaught",
        "the worker is terminated by an uncaught CUDA error",
        InjectedFault("last_words", text=TERMINATION_MESSAGE),
    ),
    _build_scenario("segfault", "the worker segfaults", InjectedFault("segfault")),
    _build_scenario("exit-0", "the worker exits with 0 and no result", InjectedFault("exit")),
    _build_scenario("hang", "the worker hangs", InjectedFault("hang"), rounds=3),
    _build_scenario("stop", "the worker is stopped (SIGSTOP)", InjectedFault("stop"), rounds=3),
    _build_scenario(
        "eat-memory", "the worker exceeds its memory limit", InjectedFault("eat_memory")
    ),
    _build_scenario(
        "half-message", "the worker dies in the middle of a message", InjectedFault("half_message")
    ),
    _build_scenario("garbage", "the worker sends invalid data", InjectedFault("garbage")),
    _build_scenario(
        "deliver-and-abort",
        "the worker sends its result, then aborts",
        InjectedFault("deliver_and_abort"),
    ),
    _build_scenario(
        "soft-out-of-memory",
        "out of memory, recovered in the same process",
        InjectedFault("soft_fault", text="CUDA failed with error out of memory"),
    ),
)
CRASH = InjectedFault("abort", chunk=MIDDLE_CHUNK)
SCENARIOS = (
    Scenario("cuda-load", "each known CUDA error message, while the model loads", fail_loads),
    Scenario(
        "cuda-first",
        "each known message, at a file's first chunk",
        lambda run: fail_chunks(run, chunk=0),
    ),
    Scenario(
        "cuda-mid",
        "each known message, in the middle of a file",
        lambda run: fail_chunks(run, chunk=MIDDLE_CHUNK),
        in_quick=True,
    ),
    *REPEATED_FAULTS,
    Scenario(
        "poison-fail",
        "a poison file beside other files: failed",
        lambda run: drop_poison_file(
            run, fault=CRASH, on_poison="fail", codes=frozenset({"poison"})
        ),
    ),
    Scenario(
        "poison-gap",
        "a poison file beside other files: completed with a gap",
        lambda run: drop_poison_file(run, fault=CRASH, on_poison="gap", codes=frozenset()),
        in_quick=True,
    ),
    Scenario(
        "poison-open",
        "a file that crashes workers when it is opened",
        lambda run: drop_poison_file(
            run,
            fault=InjectedFault("abort", at="open"),
            on_poison="gap",
            codes=frozenset({"worker_crashed"}),
        ),
    ),
)
