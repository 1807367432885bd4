"""Measures the cost and benefit of each default of the engine.

Usage: python -m benchmarks.sweep [--sets short,long]

One process and one loaded model transcribe the same recordings, with one setting changed at a time,
in three rounds. Processor time is the median of the rounds, relative to the default.
"""

import argparse
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from benchmarks.corpus import Recording, recordings, wrong_words
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    Report,
    SourceRef,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.stepdown import CPU_BATCH
from speakeasyd.engine.model import load_model
from speakeasyd.engine.pipeline import Pipeline
from speakeasyd.engine.recognizer import Model
from speakeasyd.engine.whisper import decoding

ROUNDS, LONGEST_S, FRAMES_PER_S = 3, 1000.0, 100


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    floor: int = 10  # seconds: the shortest window
    margin: int = 2  # seconds of the window after the speech
    windows: Sequence[int] = decoding._WINDOWS_S  # seconds
    contexts: Sequence[int] = decoding._CONTEXTS  # tokens of the text before
    batch: int = CPU_BATCH  # windows of 30 s in one call
    options: tuple[tuple[str, Any], ...] = ()


CHOICES = (
    Choice("the defaults"),
    Choice("batch 1", batch=1),
    Choice("batch 2", batch=2),
    Choice("batch 8", batch=8),
    Choice("windows of 10 to 16, 20, 25 and 30 s", windows=(*range(10, 17), 20, 25)),
    Choice("contexts of 0 or 48 tokens", contexts=(0, 48)),
    Choice("no context", contexts=(0,)),
    Choice("floor 5 s", floor=5),
    Choice("floor 15 s", floor=15),
    Choice("floor 20 s", floor=20),
    Choice("margin 1 s", margin=1),
    Choice("margin 3 s", margin=3),
    Choice("margin 5 s", margin=5),
    Choice("beam 1", options=(("beam_size", 1),)),
    Choice("beam 2", options=(("beam_size", 2),)),
    Choice("beam 3", options=(("beam_size", 3),)),
    Choice("no fallback", options=(("fallback", False),)),
    Choice("fast", options=(("accuracy", "fast"),)),
    Choice("exact", options=(("accuracy", "exact"),)),
    Choice("with word timestamps", options=(("word_timestamps", True),)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="short,long")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=int, default=0, help="recordings of a set, at most")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    model = load_model("bundled", WorkerSpec("cpu", "int8", 2, 1, str(Path.cwd()), offline=True))
    for name in asked.sets.split(","):
        chosen = recordings(name, longest_s=LONGEST_S, limit=asked.limit)
        found = sweep(model, chosen, asked.rounds)
        print(f"\n{name}: {len(chosen)} recordings\n\n| | work | word error rate |\n|---|---|---|")
        for choice, (work, wrong) in found.items():
            print(f"| {choice.name} | {100 * work:.0f} % | {wrong:.2f} % |", flush=True)
        if asked.picture:
            asked.picture.with_stem(f"{asked.picture.stem}-{name}").write_text(
                _picture(found), "utf-8"
            )


def sweep(
    model: Model, chosen: Sequence[Recording], rounds: int
) -> dict[Choice, tuple[float, float]]:
    spent: dict[Choice, list[float]] = {choice: [] for choice in CHOICES}
    wrong: dict[Choice, float] = {}
    transcribe(model, chosen[:2], CHOICES[0])  # warm-up
    for _ in range(rounds):
        for choice in CHOICES:
            took, texts = transcribe(model, chosen, choice)
            spent[choice].append(took)
            wrong[choice] = wrong_words(chosen, texts)
    base = spent[CHOICES[0]]
    work = {
        choice: median(a / b for a, b in zip(took, base, strict=True))
        for choice, took in spent.items()
    }
    return {choice: (work[choice], wrong[choice]) for choice in CHOICES}


def transcribe(
    model: Model, chosen: Sequence[Recording], choice: Choice
) -> tuple[float, dict[str, str]]:
    """Return the seconds of processor time, and the texts by file name."""
    windows = (choice.floor, *(length for length in choice.windows if length > choice.floor))
    vars(decoding).update(
        _WINDOWS_S=windows, _MARGIN=choice.margin * FRAMES_PER_S, _CONTEXTS=choice.contexts
    )
    done: dict[int, dict[int, str]] = {number: {} for number in range(len(chosen))}
    remaining, over = set(done), threading.Event()

    def collect_report(report: Report) -> None:
        if isinstance(report, ChunkDone):
            done[report.job_id][report.chunk.index] = "".join(
                segment.text for segment in report.chunk.segments
            )
        elif isinstance(report, TaskDone | TaskFailed):
            remaining.discard(report.job_id)
            if not remaining:
                over.set()

    pipeline = Pipeline(
        recognizer=model.recognizer,
        replicas=model.replicas,
        batch_size=choice.batch,
        readers=2,
        folders={str(one.path.parent): str(one.path.parent) for one in chosen},
        send=collect_report,
        on_fault=lambda fault, _: print(fault),
        on_idle=lambda: None,
    )
    began = process_time()
    options = Options.model_validate({"model": "bundled", **dict(choice.options)})
    for number, one in enumerate(chosen):
        source = SourceRef(str(one.path.parent), os.fsencode(one.path.name))
        pipeline.submit(Task(JobId(number), Token("sweep"), source, options, None))
    over.wait()
    took = process_time() - began
    pipeline.stop()
    texts = {
        number: "".join(text for _, text in sorted(parts.items())) for number, parts in done.items()
    }
    return took, {one.path.name: texts[number] for number, one in enumerate(chosen)}


def _picture(found: dict[Choice, tuple[float, float]]) -> str:
    """Return a scatter plot of work (x) and word error rate (y) as SVG for light and dark."""
    works, wrongs = zip(*found.values(), strict=True)
    widest, least, most = max(works), min(wrongs), max(wrongs)

    def place(work: float, wrong: float) -> tuple[float, float]:
        return 60 + 560 * work / widest, 30 + 300 * (most - wrong) / ((most - least) or 1)

    dots = ""
    for choice, point in found.items():
        x, y = place(*point)
        dots += f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{"#2a9d6f" if choice is CHOICES[0] else "#8a94a6"}"/>'
        dots += f'<text x="{x + 8:.0f}" y="{y + 4:.0f}">{choice.name}</text>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 380" font-family="sans-serif" font-size="12" '
        f'fill="#888"><text x="8" y="16">word error rate: {most:.1f} %</text><text x="8" y="334">{least:.1f} %</text>'
        f'<text x="420" y="370">work: up to {100 * widest:.0f} % of the defaults</text>'
        f'<path d="M60 24V345H740" fill="none" stroke="#888"/>{dots}</svg>\n'
    )


if __name__ == "__main__":
    main()
