"""Model probe: `python -m speakeasyd.engine.model_hash MODEL DEVICE STATE` prints JSON.

It names the model that a worker of this machine would load, with its hash.
"""

import hashlib
import json
import sys
from pathlib import Path

_PARTS = ("config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.*")
"""Patterns of the files that a model consists of."""


def hash_model(folder: Path) -> str:
    """Return the SHA-256, in hex, of the names and hashes of a model's files. Raises OSError."""
    whole = hashlib.sha256()
    for file in sorted(file for pattern in _PARTS for file in folder.glob(pattern)):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(f"{file.name} {digest}\n".encode())
    return whole.hexdigest()


def main() -> None:
    from speakeasyd.engine.model import find_model  # noqa: PLC0415 - workers import this module
    from speakeasyd.engine.recognizer import ModelUnavailable  # noqa: PLC0415

    requested, device, state = sys.argv[1:]
    try:
        choice = find_model(requested, device=device, models_dir=Path(state) / "models")
        found = {"model": choice.name, "sha256": hash_model(choice.folder), "error": ""}
    except (ModelUnavailable, OSError) as error:
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
