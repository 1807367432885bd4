"""All scenarios, and how one is carried out."""

import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.torture import absences, badinput, disks, kills, misdeeds, outsiders, real, writers
from tests.torture.scenario import Run, Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for part in (kills, real, misdeeds, disks, absences, badinput, writers, outsiders)
    for scenario in part.SCENARIOS
}


def chosen(pattern: str = "", *, quick: bool) -> list[Scenario]:
    """Those whose names begin so; the quick ones, if none is named."""
    fit = [scenario for scenario in SCENARIOS.values() if re.match(pattern, scenario.name)]
    return [scenario for scenario in fit if pattern or scenario.in_quick or not quick]


def torture(
    names: Sequence[str], *, scratch: Path, seed: int, quick: bool, lanes: int
) -> Iterator[Run]:
    """Side by side, each lane a process of its own; what they found, in order."""
    with ProcessPoolExecutor(lanes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(carry_out, scratch=scratch, seed=seed, quick=quick), names)


def carry_out(name: str, *, scratch: Path, seed: int, quick: bool) -> Run:
    """Never raises: a scenario that cannot go on is a breach, too."""
    scenario = SCENARIOS[name]
    run = Run(name, scenario.fault, scratch / name, random.Random(f"{seed} {name}"), quick)
    run.scratch.mkdir()
    began = time.monotonic()
    try:
        scenario.play(run)
    except Exception as error:
        run.complain(f"the round could not be ended: {error!r}")
    run.seconds = time.monotonic() - began
    return run
