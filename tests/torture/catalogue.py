"""All scenarios, and functions that select and run them."""

import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.torture import (
    attacks,
    bad_input,
    cluster,
    disks,
    gpu,
    kills,
    real_engine,
    unavailable_folders,
    worker_faults,
    writers,
)
from tests.torture.scenario import Run, Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for part in (
        kills,
        real_engine,
        worker_faults,
        cluster,
        gpu,
        disks,
        unavailable_folders,
        bad_input,
        writers,
        attacks,
    )
    for scenario in part.SCENARIOS
}


def select_scenarios(pattern: str = "", *, quick: bool) -> list[Scenario]:
    """Return the scenarios whose names match the pattern at their start; without one, all or the
    quick ones.
    """
    matching = [scenario for scenario in SCENARIOS.values() if re.match(pattern, scenario.name)]
    return [scenario for scenario in matching if pattern or scenario.in_quick or not quick]


def run_scenarios(
    names: Sequence[str], *, scratch: Path, seed: int, quick: bool, processes: int
) -> Iterator[Run]:
    """Run scenarios in parallel processes. Yields their results in the order of `names`."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(run_scenario, scratch=scratch, seed=seed, quick=quick), names)


def run_scenario(name: str, *, scratch: Path, seed: int, quick: bool) -> Run:
    """Run one scenario. An exception in it counts as a violation."""
    scenario = SCENARIOS[name]
    run = Run(name, scenario.fault, scratch / name, random.Random(f"{seed} {name}"), quick)
    run.scratch.mkdir()
    began = time.monotonic()
    try:
        scenario.execute(run)
    except Exception as error:
        run.report_violation(f"the round was not completed: {error!r}")
    run.seconds = time.monotonic() - began
    return run
