"""`Scenario`, which describes a kind of fault, and `Run`, which collects its results."""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.daemon_under_test import DaemonUnderTest, Violation, ViolationKind


@dataclass(frozen=True, slots=True)
class Scenario:
    """`execute` injects the fault, round by round, into daemons of `Run.create_daemon`."""

    name: str
    fault: str  # its name in the table
    execute: "Callable[[Run], None]"
    is_possible: Callable[[], bool] = lambda: True  # on this machine
    in_quick: bool = False  # whether a quick run includes it


@dataclass(slots=True)
class Run:
    """The state and the results of one scenario.

    All random numbers come from `rng`, so a seed repeats them.
    """

    name: str
    fault: str
    scratch: Path
    rng: random.Random
    quick: bool = False
    rounds: int = 0
    restarts: int = 0
    repeated_chunks: int = 0
    recovery_s: list[float] = field(default_factory=list)
    standstill_s: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    seconds: float = 0.0

    def count_rounds(self, full: int, *, quick: int = 1) -> Iterator[int]:
        """Yield the number of each round and count it when it is complete."""
        for number in range(quick if self.quick else full):
            yield number
            self.rounds += 1

    @contextmanager
    def create_daemon(self, **more: Any) -> Iterator[DaemonUnderTest]:
        """Create a daemon with its own folders.

        At the end it is checked, and its processes are killed.
        """
        daemon = DaemonUnderTest(
            self.scratch / f"daemon-{len(list(self.scratch.iterdir()))}", **more
        )
        try:
            yield daemon
            self.check_daemon(daemon)
        finally:
            daemon.close()

    def check_daemon(self, daemon: DaemonUnderTest, *, ended: bool = True) -> None:
        self.violations += daemon.find_violations(ended=ended)
        if ended:
            self.restarts += (
                daemon.query_ledger("SELECT count(*) FROM incidents")[0][0] + daemon.starts - 1
            )
            self.repeated_chunks += daemon.count_repeated_chunks()

    @contextmanager
    def measure_recovery(self, daemon: DaemonUnderTest) -> Iterator[None]:
        """Measure the time from the end of the block, which injects a fault, to the next committed
        chunk.
        """
        stale = {worker.pid for worker in daemon.list_workers()}
        yield
        began = time.monotonic()
        daemon.wait_until(
            lambda: {worker.pid for worker in daemon.list_workers()} - stale, "a new worker"
        )
        before = daemon.count_progress()
        daemon.wait_until(lambda: daemon.count_progress() > before, "a committed chunk")
        self.recovery_s.append(time.monotonic() - began)

    def check_attempts(self, daemon: DaemonUnderTest) -> None:
        """Report jobs that used more than one attempt."""
        used = daemon.query_ledger("SELECT path FROM jobs WHERE attempts > 1 OR crashes > 0")
        if used:
            self.report_violation(f"attempts were used up: {[row['path'] for row in used]}")

    def report_violation(self, what: str) -> None:
        self.violations.append(Violation("other", what))

    def count_violations(self, kind: ViolationKind) -> int:
        return sum(violation.kind == kind for violation in self.violations)

    @property
    def median_recovery_s(self) -> float | None:
        return statistics.median(self.recovery_s) if self.recovery_s else None

    @property
    def longest_standstill_s(self) -> float | None:
        """Return the longest time without a new transcript, less the usual time."""
        return max(self.standstill_s, default=None)

    @property
    def worst_recovery_s(self) -> float | None:
        return max(self.recovery_s, default=None)
