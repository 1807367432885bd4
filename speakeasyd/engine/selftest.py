"""Self-test for the `doctor` command: decodes a sample, loads the model, transcribes the canary.

`python -m speakeasyd.engine.selftest MODEL SPEC`, with SPEC as JSON, prints JSON: `decoded` in
seconds of audio, `model`, `device` and `compute_type`; or `phase` and `error`.
"""

import json
import sys
from importlib.resources import as_file, files

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.audio import Audio
from speakeasyd.engine.faults import EngineFault, label_phase
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.model import load_model


def collect_findings(requested: str, spec: WorkerSpec) -> dict[str, object]:
    """Return the findings as in the module's docstring."""
    try:
        with label_phase(Phase.DECODE):
            decoded = _decode_sample()
        loaded = load_model(requested, spec).loaded
    except EngineFault as fault:
        return {"phase": fault.phase, "error": str(fault)}
    return {
        "decoded": decoded,
        "model": loaded.model,
        "device": loaded.device,
        "compute_type": loaded.compute_type,
    }


def _decode_sample() -> float:
    """Return the seconds of audio decoded from the bundled sample."""
    with (
        as_file(files("speakeasyd") / "data" / "samples" / "voice_memo.flac") as path,
        MediaFile(str(path)) as source,
    ):
        audio = Audio(source)
        for _ in audio.blocks():
            pass
        audio.close()
        return round(audio.decoded_seconds, 1)


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(collect_findings(sys.argv[1], WorkerSpec(**json.loads(sys.argv[2]))))
    )
