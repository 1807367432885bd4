"""Measures the cost and benefit of each default of the engine.

Usage: python -m benchmarks.sweep [--sets short,long] [--device cuda] [--model FOLDER]

One process and one loaded model transcribe the same recordings, with one setting changed at a time,
in three rounds. Work is processor time, on a GPU time on the clock: the median of the rounds,
relative to the defaults.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks.contenders import BUNDLED
from benchmarks.corpus import Recording, recordings, wrong_words
from benchmarks.machine import describe_machine
from benchmarks.pipeline_run import run_pipeline
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.stepdown import CPU_BATCH, GPU_BATCH, GPU_REPLICAS
from speakeasyd.domain.transcript import Chunk
from speakeasyd.engine.model import load_model
from speakeasyd.engine.recognizer import AnyRecognizer, Model
from speakeasyd.engine.whisper import decoding
from speakeasyd.engine.whisper.decoding import FRAMES_PER_S
from speakeasyd.engine.whisper.network import CALL_RULES, CallRules, CTranslate2Network
from speakeasyd.engine.whisper.packed_network import PACKED_RULES
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer

ROUNDS, LONGEST_S = 3, 1000.0


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    rules: CallRules = PACKED_RULES
    margin: int = 2  # seconds of the window after the speech
    batch: int = CPU_BATCH  # windows of 30 s in one call
    replicas: int = 2
    options: tuple[tuple[str, Any], ...] = ()

    def with_rules(self, name: str, **changes: Any) -> "Choice":
        return replace(self, name=name, rules=replace(self.rules, **changes))


DEFAULTS = Choice("the defaults")
CHOICES = (
    DEFAULTS,
    Choice("CTranslate2 decodes", CALL_RULES["cpu"]),
    Choice("batch 1", batch=1),
    Choice("batch 2", batch=2),
    Choice("batch 8", batch=8),
    DEFAULTS.with_rules("windows of 10 to 16, 20, 25 and 30 s", windows_s=(*range(10, 17), 20, 25)),
    DEFAULTS.with_rules("contexts of 0 or 48 tokens", contexts=(0, 48)),
    DEFAULTS.with_rules("no context", contexts=(0,)),
    DEFAULTS.with_rules("no timestamps", timestamps=False),
    *(DEFAULTS.with_rules(f"floor {floor} s", windows_s=range(floor, 30)) for floor in (5, 15, 20)),
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
GPU_DEFAULTS = Choice("the defaults", CALL_RULES["cuda"], batch=GPU_BATCH, replicas=GPU_REPLICAS)
GPU_CHOICES = (
    GPU_DEFAULTS,
    replace(
        GPU_DEFAULTS, name="windows, contexts and timestamps of a CPU", rules=CALL_RULES["cpu"]
    ),
    GPU_DEFAULTS.with_rules("timestamps", timestamps=True),
    GPU_DEFAULTS.with_rules("windows of 10 to 30 s", windows_s=range(10, 30)),
    GPU_DEFAULTS.with_rules("windows of 30 s", windows_s=()),
    GPU_DEFAULTS.with_rules("no context", contexts=(0,)),
    *(replace(GPU_DEFAULTS, name=f"replicas: {count}", replicas=count) for count in (1, 3, 4)),
    *(replace(GPU_DEFAULTS, name=f"batch {size}", batch=size) for size in (1, 8, 32)),
    replace(GPU_DEFAULTS, name="beam 1", options=(("beam_size", 1),)),
    replace(GPU_DEFAULTS, name="no fallback", options=(("fallback", False),)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="short,long")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=int, default=0, help="recordings of a set, at most")
    parser.add_argument("--copies", type=int, default=1, help="of each recording")
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--choices", choices=("cpu", "cuda"), help="of the device, if not given")
    parser.add_argument("--compute-type", default="auto")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    choices = GPU_CHOICES if (asked.choices or asked.device) == "cuda" else CHOICES
    device = "cuda:0" if asked.device == "cuda" else "cpu"
    replicas = max(choice.replicas for choice in choices)
    spec = WorkerSpec(device, asked.compute_type, replicas, 1, str(Path.cwd()), offline=True)
    model = load_model(asked.model, spec)
    assert isinstance(model.recognizer, WhisperRecognizer)
    if choices is CHOICES and model.recognizer.network.rules.equal_lengths:
        parser.error(f"the packed network is needed: {model.recognizer.network.description}")
    print(describe_machine(asked.device), asked.model, model.loaded.compute_type)
    for name in asked.sets.split(","):
        chosen = recordings(name, longest_s=LONGEST_S, limit=asked.limit) * asked.copies
        audio_s = sum(one.seconds for one in chosen)
        found = sweep(model, chosen, choices, asked.rounds)
        print(f"\n{name}: {len(chosen)} recordings, {audio_s:.0f} s\n")
        print("| | work | seconds | clips a call | decoded again | word error rate |")
        print("|---|---|---|---|---|---|")
        points: dict[str, tuple[float, float]] = {}
        for choice, (work, result) in found.items():
            wrong = wrong_words(chosen, result.texts)
            points[choice.name] = work, wrong
            print(
                f"| {choice.name} | {100 * work:.0f} % | {result.seconds:.2f} "
                f"| {result.clips_a_call:.1f} | {result.redone} | {wrong:.2f} % |",
                flush=True,
            )
        if asked.picture:
            picture = asked.picture.with_stem(f"{asked.picture.stem}-{name}")
            picture.write_text(_draw_picture(points), "utf-8")


@dataclass(frozen=True, slots=True)
class Result:
    work_s: float  # seconds of processor time; on a GPU, on the clock
    seconds: float  # on the clock
    clips_a_call: float
    redone: int  # texts that were decoded again
    texts: dict[str, str]  # by file name


def sweep(
    model: Model, chosen: Sequence[Recording], choices: Sequence[Choice], rounds: int
) -> dict[Choice, tuple[float, Result]]:
    """Return the work relative to the first choice, and the last result, of each choice."""
    results: dict[Choice, list[Result]] = {choice: [] for choice in choices}
    transcribe(model, chosen[:8], choices[0])  # warm-up
    for _ in range(rounds):
        for choice in choices:
            results[choice].append(transcribe(model, chosen, choice))
    base = results[choices[0]]
    return {
        choice: (
            median(one.work_s / other.work_s for one, other in zip(found, base, strict=True)),
            found[-1],
        )
        for choice, found in results.items()
    }


def transcribe(model: Model, chosen: Sequence[Recording], choice: Choice) -> Result:
    """Transcribe all recordings, with one setting changed."""
    assert isinstance(model.recognizer, WhisperRecognizer)
    decoding._MARGIN = choice.margin * FRAMES_PER_S
    redone = 0

    def count_redone(chunk: Chunk) -> None:
        nonlocal redone
        redone += chunk.redone

    network = model.recognizer.network
    if choice.rules.equal_lengths:
        network = CTranslate2Network(model.recognizer.model)
    recognizer = WhisperRecognizer(model.recognizer.model, network, choice.rules)
    counting = _CountingRecognizer(recognizer)
    clock = process_time if "cpu" in model.loaded.device else perf_counter
    began, began_s = clock(), perf_counter()
    texts = run_pipeline(
        [one.path for one in chosen],
        Options.model_validate({"model": "bundled", **dict(choice.options)}),
        recognizer=counting,
        replicas=choice.replicas,
        batch_size=choice.batch,
        on_chunk=count_redone,
    )
    work_s, seconds = clock() - began, perf_counter() - began_s
    return Result(work_s, seconds, counting.clips / counting.calls, redone, texts)


class _CountingRecognizer:
    """Counts the calls that decode clips for the first time, and the clips in them."""

    def __init__(self, recognizer: AnyRecognizer) -> None:
        self._recognizer, self.calls, self.clips = recognizer, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recognizer, name)

    def recognize_batch(self, requests: Sequence[Any], encoded: Any = None) -> Any:
        self.calls += 1
        self.clips += len(requests)
        return self._recognizer.recognize_batch(requests, encoded)


def _draw_picture(points: dict[str, tuple[float, float]]) -> str:
    """Return a scatter plot of work (x) and word error rate (y) as SVG for light and dark.

    `points`: work and word error rate by the name of the choice.
    """
    works, wrongs = zip(*points.values(), strict=True)
    widest, least, most = max(works), min(wrongs), max(wrongs)

    def place(work: float, wrong: float) -> tuple[float, float]:
        return 60 + 560 * work / widest, 30 + 300 * (most - wrong) / ((most - least) or 1)

    dots = ""
    for name, point in points.items():
        x, y = place(*point)
        color = "#2a9d6f" if name == DEFAULTS.name else "#8a94a6"
        dots += f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{color}"/>'
        dots += f'<text x="{x + 8:.0f}" y="{y + 4:.0f}">{name}</text>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 380" font-family="sans-serif" font-size="12" '
        f'fill="#888"><text x="8" y="16">word error rate: {most:.1f} %</text><text x="8" y="334">{least:.1f} %</text>'
        f'<text x="420" y="370">work: up to {100 * widest:.0f} % of the defaults</text>'
        f'<path d="M60 24V345H740" fill="none" stroke="#888"/>{dots}</svg>\n'
    )


if __name__ == "__main__":
    main()
