"""Everything that can be done to speakeasyd on one machine, done to it; what was lost, as a table.

python -m tests.torture [--only NAME] [--quick] [--seed N]

A full run writes its table into docs/reliability.md.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.torture import kills, misdeeds, report
from tests.torture.scenario import Run, Scenario, carry_out

LANES = 3  # scenarios side by side: they wait more than they compute
SCENARIOS: tuple[Scenario, ...] = (*kills.SCENARIOS, *misdeeds.SCENARIOS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="NAME", help="scenarios whose name begins so, or fits a pattern: " + " ".join(names())
    )
    parser.add_argument("--quick", action="store_true", help="a round or two of each")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--lanes", type=int, default=LANES)
    asked = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if re.match(asked.only or "", scenario.name)]
    print(f"seed {asked.seed}", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix="torture-"))
    runs = torture(chosen, scratch=scratch, seed=asked.seed, quick=asked.quick, lanes=asked.lanes)
    print(report.table(runs))
    if not (asked.only or asked.quick):
        report.write(report.table(runs))
    failed = any(run.breaches for run in runs)
    if failed:
        print(f"what is left of it lies in {scratch}")
    else:
        shutil.rmtree(scratch)
    return int(failed)


def names() -> list[str]:
    return [scenario.name for scenario in SCENARIOS]


def torture(chosen: list[Scenario], *, scratch: Path, seed: int, quick: bool, lanes: int) -> list[Run]:
    possible = [scenario for scenario in chosen if scenario.possible()]
    for scenario in set(chosen) - set(possible):
        print(f"{scenario.name}: not possible on this machine")
    with ThreadPoolExecutor(lanes) as pool:
        runs = []
        for run in pool.map(partial(carry_out, scratch=scratch, seed=seed, quick=quick), possible):
            print(f"{run.scenario.name}: {run.rounds} rounds, {run.seconds:.0f} s, {run.done_again} chunks done again")
            print("".join(f"  {breach}\n" for breach in run.breaches), end="", flush=True)
            runs.append(run)
    return runs


if __name__ == "__main__":
    sys.exit(main())
