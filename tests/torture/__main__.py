"""Everything that can be done to speakeasyd on one machine, done to it; what was lost, as a table.

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
from tests.torture.catalogue import SCENARIOS, chosen, torture
from tests.torture.scenario import Scenario

LANES = 3  # scenarios side by side: they wait more than they compute


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        default="",
        help=f"what begins so (a pattern): {' '.join(SCENARIOS)}",
    )
    parser.add_argument("--quick", action="store_true", help="a round or two of a few")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lanes", type=int, default=LANES)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix="torture-"))
    runs = []
    names = possible(chosen(asked.only, quick=asked.quick))
    for run in torture(
        names, scratch=scratch, seed=asked.seed, quick=asked.quick, lanes=asked.lanes
    ):
        print(
            f"{run.name}: {run.rounds} rounds, {run.seconds:.0f} s, {run.done_again} chunks done again"
        )
        print("".join(f"  {breach}\n" for breach in run.breaches), end="", flush=True)
        runs.append(run)
    print(report.table(runs))
    if not (asked.only or asked.quick):
        report.write(report.table(runs))
    failed = any(run.breaches for run in runs)
    if failed:
        print(f"what is left of it lies in {scratch}")
    else:
        shutil.rmtree(scratch)
    return int(failed)


def possible(scenarios: list[Scenario]) -> list[str]:
    print(
        "".join(
            f"{one.name}: not possible on this machine\n" for one in scenarios if not one.possible()
        ),
        end="",
    )
    return [one.name for one in scenarios if one.possible()]


if __name__ == "__main__":
    sys.exit(main())
