"""Finds and loads models: the one place that knows which engines there are."""

from pathlib import Path

from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.recognizer import Model, ModelChoice, OnProgress
from speakeasyd.engine.whisper import loading, model_files


def find_model(requested: str, *, device: str, models_dir: Path) -> ModelChoice:
    """Return the model that the options name, without the model hub. Raises ModelUnavailable.

    `device` decides what `auto` means.
    """
    return model_files.choose_model(requested, device=device, models_dir=models_dir, offline=True)


def load_model(
    requested: str,
    spec: WorkerSpec,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Model:
    """Load the model and run the canary. Raises EngineFault of phase load or canary.

    `on_progress` is called from other threads: every few seconds while the model is downloaded, and
    when a library loads it later, because it is needed only then.
    """
    return loading.load_whisper(requested, spec, on_progress=on_progress)
