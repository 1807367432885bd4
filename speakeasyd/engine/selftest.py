"""Self-test for the `doctor` command: decodes a sample, loads the model, transcribes the canary.

`python -m speakeasyd.engine.selftest MODEL SPEC`, with SPEC as JSON, prints JSON: `decoded` in
seconds of audio, `model`, `device`, `compute_type` and `network`; or `phase` and `error`. `voices`:
how many the speaker models hear in the sample; or `voices_error`.
"""

import json
import sys

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.engine.audio import SAMPLE_RATE, Samples
from speakeasyd.engine.bundled_audio import decode_bundled_audio
from speakeasyd.engine.canary import transcribe_canary
from speakeasyd.engine.diarization import SpeakerDetector
from speakeasyd.engine.faults import EngineFault, label_phase
from speakeasyd.engine.model import load_model
from speakeasyd.engine.vad import VoiceDetector


def collect_findings(requested: str, spec: WorkerSpec) -> dict[str, object]:
    """Return the findings as in the module's docstring."""
    try:
        with label_phase(Phase.DECODE):
            samples = decode_bundled_audio("samples/voice_memo.flac")  # one voice
        VoiceDetector()  # each worker loads it
        model = load_model(requested, spec)
        transcribe_canary(model.recognizer, words=model.recognizer.capabilities.word_times)
    except EngineFault as fault:
        return {"phase": fault.phase, "error": str(fault)}
    return {
        "decoded": round(samples.size / SAMPLE_RATE, 1),
        "model": model.loaded.model,
        "device": model.loaded.device,
        "compute_type": model.loaded.compute_type,
        "network": model.loaded.network,
        **_count_voices(samples),
    }


def _count_voices(samples: Samples) -> dict[str, object]:
    try:
        found = SpeakerDetector().find_speakers(samples, 0.0)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return {"voices_error": f"{type(error).__name__}: {error}"}
    return {"voices": len(found.speakers)}


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(collect_findings(sys.argv[1], WorkerSpec(**json.loads(sys.argv[2]))))
    )
