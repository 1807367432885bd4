"""kill -9 at random moments: nothing is lost, doubled, half-written or different.

python -m tests.torture.kill --rounds 20 --what daemon FILE...
python -m tests.torture.kill --rounds 20 --what worker FILE...
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests.torture.place import Place


def undisturbed(files: list[Path], root: Path) -> tuple[dict[str, str], float]:
    """The texts of a run that nothing disturbs, and its seconds."""
    place = Place(root)
    for file in files:
        place.drop(file)
    began = time.monotonic()
    place.once()
    return place.texts(), time.monotonic() - began


def disturbed(files: list[Path], root: Path, *, what: str, rounds: int, every_s: float, dice: random.Random) -> Place:
    """Kill until `rounds` kills have hit work in progress, then let it end."""
    place = Place(root)
    for file in files:
        place.drop(file)
    place.start()
    kills = 0
    while kills < rounds and not place.ended(len(files)):
        time.sleep(dice.uniform(0.05, every_s))
        if what == "worker":
            kills += place.kill_worker()
        else:
            place.kill_daemon()
            place.start()
            kills += 1
    place.wait_for_end(len(files))
    place.stop()
    print(f"kills: {kills}")
    return place


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--what", choices=("daemon", "worker"), default="daemon")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two kills, at most")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {len(arguments.files)} files")
    with tempfile.TemporaryDirectory() as scratch:
        expected, seconds = undisturbed(arguments.files, Path(scratch) / "undisturbed")
        print(f"undisturbed: {seconds:.1f} s")
        began = time.monotonic()
        dice = random.Random(arguments.seed)
        place = disturbed(
            arguments.files,
            Path(scratch) / "disturbed",
            what=arguments.what,
            rounds=arguments.rounds,
            every_s=arguments.every,
            dice=dice,
        )
        print(f"disturbed: {time.monotonic() - began:.1f} s")
        broken = list(place.broken(expected))
        print("\n".join(broken) or "all invariants hold")
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())
