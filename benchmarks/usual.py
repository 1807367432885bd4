"""Common ways to use faster-whisper in a script.

Usage: python -m benchmarks.usual WAY MODEL OUT.json FILE...
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from faster_whisper import BatchedInferencePipeline, WhisperModel

Segments = Iterable[object]


def ways(folder: str) -> dict[str, Callable[[str], tuple[Segments, object]]]:
    model = WhisperModel(folder, device="cpu", compute_type="int8")
    batched = BatchedInferencePipeline(model)
    return {
        "loop": model.transcribe,
        "loop-beam-1": lambda file: model.transcribe(file, beam_size=1),
        "batched": batched.transcribe,
    }


def main(way: str, folder: str, out: str, *files: str) -> None:
    transcribe = ways(folder)[way]
    texts = {}
    for file in files:
        segments, _ = transcribe(file)
        texts[Path(file).name] = "".join(segment.text for segment in segments)  # type: ignore[attr-defined]
    Path(out).write_text(json.dumps(texts), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
