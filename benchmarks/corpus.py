"""The recordings to transcribe, with their reference texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = Path(str(files("speakeasyd") / "data" / "samples"))
SETS = {
    "short": {"clip", "format"},
    "long": {"long"},
    "mixed": {"clip", "format", "long"},
    "samples": set(),
}


@dataclass(frozen=True, slots=True)
class Recording:
    path: Path
    reference: str  # the reference text; empty without one
    seconds: float


def recordings(name: str, *, longest_s: float, limit: int) -> list[Recording]:
    """Return the English recordings of a set, or the bundled samples if it has none."""
    manifest = RECORDINGS / "manifest.jsonl"
    if not SETS[name] or not manifest.is_file():
        return [Recording(path, "", 0.0) for path in sorted(SAMPLES.glob("*.flac"))]
    rows = map(json.loads, manifest.read_text("utf-8").splitlines())
    found = [
        Recording(RECORDINGS / row["path"], row["reference"], row["duration_s"])
        for row in rows
        if row["kind"] in SETS[name] and row["language"] == "en" and row["expect"] == "transcript"
    ]
    return [recording for recording in found if recording.seconds <= longest_s][: limit or None]


def wrong_words(recordings: Sequence[Recording], texts: Mapping[str, str]) -> float:
    """Return the word error rate in percent; `texts` by file name."""
    normal = EnglishTextNormalizer()
    pairs = [
        (normal(one.reference), normal(texts.get(one.path.name, "")) or "-")
        for one in recordings
        if one.reference
    ]
    return (
        100
        * jiwer.wer([reference for reference, _ in pairs], [hypothesis for _, hypothesis in pairs])
        if pairs
        else float("nan")
    )
