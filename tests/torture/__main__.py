"""Injects faults into running daemons and counts lost, duplicate and wrong results.

python -m tests.torture [--only NAME] [--quick] [--seed N]

A full run writes its table into docs/reliability.md.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.torture import report
from tests.torture.catalogue import SCENARIOS, run_scenarios, select_scenarios
from tests.torture.scenario import Scenario

PROCESSES = 3  # they wait more than they compute


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        default="",
        help=f"scenarios whose names match this pattern at their start: {' '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few scenarios, one or two rounds each"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix="torture-"))
    runs = []
    names = remove_impossible(select_scenarios(arguments.only, quick=arguments.quick))
    for run in run_scenarios(
        names,
        scratch=scratch,
        seed=arguments.seed,
        quick=arguments.quick,
        processes=arguments.processes,
    ):
        print(
            f"{run.name}: {run.rounds} rounds, {run.seconds:.0f} s, "
            f"{run.repeated_chunks} chunks repeated"
        )
        print("".join(f"  {violation}\n" for violation in run.violations), end="", flush=True)
        runs.append(run)
    print(report.render_table(runs))
    if not (arguments.only or arguments.quick):
        report.write_page(report.render_table(runs))
    failed = any(run.violations for run in runs)
    if failed:
        print(f"the files are kept in {scratch}")
    else:
        shutil.rmtree(scratch)
    return int(failed)


def remove_impossible(scenarios: list[Scenario]) -> list[str]:
    """Return the names of scenarios that this machine can run. Prints the others."""
    possible = {scenario.name: scenario.is_possible() for scenario in scenarios}
    for name, is_possible in possible.items():
        if not is_possible:
            print(f"{name}: not possible on this machine")
    return [name for name, is_possible in possible.items() if is_possible]


if __name__ == "__main__":
    sys.exit(main())
