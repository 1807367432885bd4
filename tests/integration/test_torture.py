"""The quick part of `make torture`."""

import sys
from pathlib import Path

import pytest

from tests.torture.catalogue import run_scenarios, select_scenarios
from tests.torture.report import HEADINGS, render_table

PROCESSES = 2
SEED = 1  # the faults are the same every time; their moments are not

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


def test_no_results_are_lost_duplicate_or_wrong(tmp_path: Path) -> None:
    names = [scenario.name for scenario in select_scenarios(quick=True) if scenario.is_possible()]
    runs = list(run_scenarios(names, scratch=tmp_path, seed=SEED, quick=True, processes=PROCESSES))
    assert {
        run.name: [str(violation) for violation in run.violations] for run in runs if run.violations
    } == {}
    assert all(run.rounds for run in runs)
    assert render_table(runs).count("\n") == 1 + len(names)
    assert HEADINGS[0] in render_table(runs)
