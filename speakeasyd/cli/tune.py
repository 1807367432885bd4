"""`speakeasyd tune`"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.engine_checks import run_engine_probe
from speakeasyd.cli.flags import Flags, load_with_flags
from speakeasyd.cli.output import console, print_json
from speakeasyd.cli.progress import show_progress
from speakeasyd.config import Settings
from speakeasyd.config.edits import set_keys
from speakeasyd.config.reference import format_toml, render_toml_file
from speakeasyd.domain.devices import CPU, FIRST_GPU, is_gpu
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.stepdown import CPU_BATCH, GPU_BATCH, GPU_REPLICAS
from speakeasyd.durable import write_private
from speakeasyd.errors import SpeakeasyError
from speakeasyd.setting_sources import list_candidates

# Times as fast that another way has to be, to be chosen over one that was tried before it
WORTH = 1.03
_GPU = [
    ("float16", GPU_REPLICAS, GPU_BATCH),
    ("float16", 2 * GPU_REPLICAS, GPU_BATCH),
    ("float16", GPU_REPLICAS, 2 * GPU_BATCH),
    ("float16", 1, GPU_BATCH),
    ("int8_float16", GPU_REPLICAS, GPU_BATCH),
]


@dataclass(frozen=True, slots=True)
class Trial:
    spec: WorkerSpec
    speed: float  # seconds of audio in a second
    memory: int  # bytes

    @property
    def to_settings(self) -> dict[str, object]:
        """As keys of `[workers]`."""
        spec = self.spec
        return {
            "compute_type": spec.compute_type,
            "replicas": spec.replicas,
            "batch_size": spec.batch_size,
        }


def command(
    *,
    config: given.Config = None,
    state: given.State = None,
    model: given.Model = None,
    device: given.Device = None,
    seconds: Annotated[float, typer.Option(min=1, max=60, help="Duration of each trial.")] = 8.0,
    write: Annotated[
        bool, typer.Option("--write", help="Write the best settings to the configuration file.")
    ] = False,
    as_json: given.Json = False,
) -> int:
    """Find the fastest settings for this machine: replicas, batch size and precision.

    Stop the daemon first; it takes a minute or two. Nothing is changed without --write.
    """
    loaded = load_with_flags(config, Flags(state=state, model=model, device=device))
    trials: list[Trial] = []
    remaining = run_trials(loaded.settings, seconds)
    while trial := _run_next(remaining, len(trials) + 1):
        trials.append(trial)
        if not as_json:
            console().print(_format_trial(trial), markup=False, soft_wrap=True)
    winner = choose_best(trials)
    if as_json:
        print_json({"best": winner.to_settings, "trials": [asdict(trial) for trial in trials]})
    else:
        console().print(
            f"best: {_format_trial(winner)}", style="bold", markup=False, soft_wrap=True
        )
    if write:
        _write_settings(config or loaded.file or list_candidates()[0], winner)
    return 0


def _run_next(trials: Iterator[Trial], number: int) -> Trial | None:
    with show_progress(f"trial {number}"):
        return next(trials, None)


def run_trials(settings: Settings, seconds: float) -> Iterator[Trial]:
    """One after the other, what is taken without tuning first. Raises SpeakeasyError if that does not work."""
    gpus = run_engine_probe("speakeasyd.engine.gpu_probe").get("gpus")
    wanted = settings.workers.device
    device = wanted if ":" in wanted else FIRST_GPU if gpus and wanted != CPU else CPU
    for number, spec in enumerate(_propose_specs(device, settings)):
        found = run_engine_probe(
            "speakeasyd.engine.tune_trial",
            settings.options.model,
            str(seconds),
            json.dumps(asdict(spec)),
        )
        if "error" not in found:
            yield Trial(spec, found["speed"], found["memory"])
        elif number == 0:
            raise SpeakeasyError(
                f"the model cannot be tried: {found['error']}", hint="See: speakeasyd doctor"
            )


def _propose_specs(device: str, settings: Settings) -> Iterator[WorkerSpec]:
    state, offline = str(settings.state), settings.workers.offline
    for compute_type, replicas, batch_size in (
        _GPU if is_gpu(device) else _propose_cpu_settings(os.cpu_count() or 1)
    ):
        yield WorkerSpec(device, compute_type, replicas, batch_size, state, offline)


def _propose_cpu_settings(cores: int) -> list[tuple[str, int, int]]:
    """Models side by side: as many as cores, or as physical ones; more than one core for a model never paid.

    The batch size depends on the processor: libraries that prepare the weights in each call gain most.
    """
    counts = dict.fromkeys((cores, max(1, cores // 2), max(1, cores - 1)))
    batches = [("int8", cores, size) for size in (CPU_BATCH, 1, 2, 2 * CPU_BATCH)]
    others = [("int8", count, CPU_BATCH) for count in counts if count != cores]
    return [*batches, *others, ("float32", cores, CPU_BATCH)]


def choose_best(trials: Sequence[Trial]) -> Trial:
    """The fastest; the earlier of two that are nearly as fast."""
    winner = trials[0]
    for trial in trials[1:]:
        if trial.speed > WORTH * winner.speed:
            winner = trial
    return winner


def _format_trial(trial: Trial) -> str:
    settings = ", ".join(
        f"{key} = {format_toml(value)}" for key, value in trial.to_settings.items()
    )
    return f"{trial.speed:6.1f} times as fast as speech, {trial.memory / 1e6:5.0f} MB: {settings}"


def _write_settings(file: Path, trial: Trial) -> None:
    text = file.read_text("utf-8") if file.is_file() else render_toml_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, set_keys(text, "workers", trial.to_settings))
    console().print(f"written: {file}", markup=False, soft_wrap=True)
