"""Engine facts for the `doctor` command, collected in a process of its own.

`python -m speakeasyd.engine.doctor_probe MODEL DEVICE STATE` prints JSON: `ffmpeg`, the libraries'
versions by name; `model`, `folder` and `warning`, or `error`, for loading the model without the
model hub. Downloads nothing.
"""

import json
import sys
from pathlib import Path

import av

from speakeasyd.engine.model import find_model
from speakeasyd.engine.recognizer import ModelUnavailable


def collect_findings(requested: str, device: str, state: Path) -> dict[str, object]:
    """Return the findings as in the module's docstring."""
    ffmpeg = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    try:
        choice = find_model(requested, device=device, models_dir=state / "models")
    except ModelUnavailable as error:
        return {"ffmpeg": ffmpeg, "error": str(error)}
    return {
        "ffmpeg": ffmpeg,
        "model": choice.name,
        "folder": str(choice.folder),
        "warning": choice.warning,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(collect_findings(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
