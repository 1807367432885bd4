"""The quick part of `make torture`: the daemon is hurt in a few ways, and nothing is lost, doubled or wrong."""

import sys
from pathlib import Path

import pytest

from tests.torture.catalogue import chosen, torture
from tests.torture.report import HEADINGS, table

LANES = 2
SEED = 1  # what is done is the same every time; when it hits is not

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


def test_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    names = [scenario.name for scenario in chosen(quick=True) if scenario.possible()]
    runs = list(torture(names, scratch=tmp_path, seed=SEED, quick=True, lanes=LANES))
    assert {
        run.name: [str(breach) for breach in run.breaches] for run in runs if run.breaches
    } == {}
    assert all(run.rounds for run in runs)
    assert table(runs).count("\n") == 1 + len(names)
    assert HEADINGS[0] in table(runs)
