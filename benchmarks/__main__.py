"""Compares speakeasyd with similar programs, in alternating runs.

Usage: python -m benchmarks [--sets short,long,mixed] [--rounds 3]

Each program runs as a new process over the same recordings with the same weights. Ratios are
computed within a round. whisper-ctranslate2 is included if it is installed: pip install whisper-ctranslate2
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Contender, Texts
from benchmarks.corpus import SETS, Recording, recordings, wrong_words
from benchmarks.measure import Measured, measured
from benchmarks.report import lines, picture, table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="short,long", help=f"of {', '.join(SETS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peers", default="", help="only those whose name contains one of these, by comma"
    )
    parser.add_argument("--limit", type=int, default=0, help="recordings of a set, at most")
    parser.add_argument(
        "--longest", type=float, default=float("inf"), help="seconds of a recording, at most"
    )
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    asked = parser.parse_args()
    contenders = _present(asked.peers.split(","))
    for name in asked.sets.split(","):
        chosen = recordings(name, longest_s=asked.longest, limit=asked.limit)
        print(
            f"\n{name}: {len(chosen)} recordings, {sum(one.seconds for one in chosen):.0f} s, {asked.rounds} rounds"
        )
        found = lines(*compare(contenders, chosen, asked.rounds))
        print(table(found), flush=True)
        if asked.pictures:
            (asked.pictures / f"speed-{name}.svg").write_text(
                picture(f"{name}: seconds", found), "utf-8"
            )


def _present(peers: Sequence[str]) -> list[Contender]:
    wanted = [one for one in CONTENDERS[1:] if any(part in one.name for part in peers)]
    if not find_spec("whisper_ctranslate2"):
        wanted = [one for one in wanted if one.name != "whisper-ctranslate2"]
    return [CONTENDERS[0], *wanted]


def compare(
    contenders: Sequence[Contender], chosen: Sequence[Recording], rounds: int
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
                took, texts = run(contender, inbox, out)
                runs[contender.name].append(took)
                wrong[contender.name] = wrong_words(chosen, _by_name(chosen, texts))
                print(f"  round {number + 1}: {contender.name} {took.seconds:.1f} s", flush=True)
    return runs, wrong


def run(contender: Contender, inbox: Path, out: Path) -> tuple[Measured, Texts]:
    out.mkdir()
    took = measured(contender.command(inbox, out))
    return took, contender.texts(out)


def _by_name(chosen: Sequence[Recording], texts: Texts) -> dict[str, str]:
    """Return the text of a recording; programs name it after the file name or its stem."""
    return {one.path.name: texts.get(one.path.name, texts.get(one.path.stem, "")) for one in chosen}


if __name__ == "__main__":
    main()
