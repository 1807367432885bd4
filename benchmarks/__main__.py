"""Compares speakeasyd with similar programs, in alternating runs.

Usage: python -m benchmarks [--sets short,long,mixed] [--rounds 3] [--model NAME] [--device cuda]

Each program runs as a new process over the same recordings with the same weights. Ratios are
computed within a round; figures are medians and quartiles of the rounds. whisper-ctranslate2 and
(on a GPU) WhisperX are included if they are installed. With --previous, only the speakeasyd of
another environment is compared; the exit status is 1 if this one is more than a tenth slower.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.contenders import (
    BUNDLED,
    Contender,
    Setup,
    Texts,
    build_previous,
    list_contenders,
)
from benchmarks.corpus import SETS, Recording, recordings, wrong_words
from benchmarks.machine import describe_machine
from benchmarks.measure import Measured, measured
from benchmarks.report import lines, picture, table

SLOWEST = 1.1  # times the seconds of the previous version


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="short,long", help=f"of {', '.join(SETS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=BUNDLED, help="a name or a folder, the same for all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--peers", default="", help="only those whose name contains one of these, by comma"
    )
    parser.add_argument("--previous", help="the Python interpreter of an earlier speakeasyd")
    parser.add_argument("--limit", type=int, default=0, help="recordings of a set, at most")
    parser.add_argument(
        "--longest", type=float, default=float("inf"), help="seconds of a recording, at most"
    )
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    asked = parser.parse_args()
    setup = Setup(asked.model, asked.device)
    contenders = list_contenders(setup, asked.peers.split(","))
    if asked.previous:
        contenders = [contenders[0], build_previous(asked.previous)]
    machine = describe_machine(asked.device)
    results = []
    for name in asked.sets.split(","):
        chosen = recordings(name, longest_s=asked.longest, limit=asked.limit)
        seconds = sum(one.seconds for one in chosen)
        runs, wrong = compare(contenders, setup, chosen, asked.rounds)
        found = lines(runs, wrong)
        results.append(
            {
                "set": name,
                "recordings": len(chosen),
                "seconds": seconds,
                "lines": list(map(asdict, found)),
                "rounds": {who: list(map(asdict, took)) for who, took in runs.items()},
            }
        )
        if not asked.json:
            title = f"{name}: {len(chosen)} recordings, {seconds:.0f} s, {asked.rounds} rounds"
            print(f"\n{title}, {asked.model}; {machine}\n\n{table(found)}", flush=True)
        if asked.pictures:
            asked.pictures.mkdir(parents=True, exist_ok=True)
            (asked.pictures / f"speed-{name}.svg").write_text(
                picture(f"{name}: seconds", found), "utf-8"
            )
        if asked.previous and found[1].ratio.middle < 1 / SLOWEST:
            raise SystemExit(f"{name}: more than {SLOWEST:g} times as slow as the previous one")
    if asked.json:
        print(json.dumps({"machine": machine, **asdict(setup), "results": results}, indent=1))


def compare(
    contenders: Sequence[Contender], setup: Setup, chosen: Sequence[Recording], rounds: int
) -> tuple[dict[str, list[Measured]], dict[str, float]]:
    """Return the rounds of each contender, and its word error rate in percent."""
    runs: dict[str, list[Measured]] = {one.name: [] for one in contenders}
    wrong: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        inbox = Path(scratch) / "inbox"
        inbox.mkdir()
        for one in chosen:
            shutil.copyfile(one.path, inbox / one.path.name)
        for number in range(rounds):
            for contender in contenders:
                out = Path(scratch) / f"{contender.name} {number}"
                out.mkdir()
                took = measured(contender.command(setup, inbox, out))
                runs[contender.name].append(took)
                wrong[contender.name] = wrong_words(chosen, _by_name(chosen, contender.texts(out)))
                progress = f"  round {number + 1}: {contender.name} {took.seconds:.1f} s"
                print(progress, file=sys.stderr, flush=True)
    return runs, wrong


def _by_name(chosen: Sequence[Recording], texts: Texts) -> dict[str, str]:
    """Return the text of a recording; programs name it after the file name or its stem."""
    return {one.path.name: texts.get(one.path.name, texts.get(one.path.stem, "")) for one in chosen}


if __name__ == "__main__":
    main()
