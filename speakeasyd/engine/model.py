"""Loads the model that the options name: the one place that knows which engines there are."""

from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.recognizer import Model
from speakeasyd.engine.whisper.loading import load_whisper


def load_model(requested: str, spec: WorkerSpec) -> Model:
    """Load the model and run the canary. Raises EngineFault of phase load or canary."""
    return load_whisper(requested, spec)
