"""What `doctor` asks of the engine, in a process of its own: `python -m speakeasyd.engine.checkup MODEL DEVICE STATE`.

Prints JSON: `ffmpeg`, the libraries' versions by name; `model`, `folder` and `warning`, or `error`, as they would be
without the hub. Downloads nothing.
"""

import json
import sys
from pathlib import Path

import av

from speakeasyd.engine import catalogue


def findings(requested: str, device: str, state: Path) -> dict[str, object]:
    ffmpeg = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    try:
        choice = catalogue.choose(requested, device=device, models_dir=state / "models", offline=True)
    except catalogue.ModelUnavailable as error:
        return {"ffmpeg": ffmpeg, "error": str(error)}
    return {"ffmpeg": ffmpeg, "model": choice.name, "folder": str(choice.folder), "warning": choice.warning}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(findings(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
