"""Real media files that contradict their headers, processed by the complete daemon."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from speakeasyd.domain.transcript import WarningKind
from tests.integration.test_daemon import DaemonProcess

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

MODEL_VARIABLE = "MULTILINGUAL_MODEL"  # folder of a multilingual model, such as base
CUE = re.compile(r"(\d+):(\d+):(\d+),(\d+) --> ")
FIFTH_OF_WORDS = 0.2  # of the words of a plain file with the same speech


@dataclass(frozen=True)
class Expected:
    """The correct outcome as a player shows it or a person says."""

    words: int
    kinds: frozenset[WarningKind] = frozenset()
    phrase: str = "fellow Americans"  # part of the text
    first_cue_s: tuple[float, float] | None = None  # minimum and maximum
    last_cue_s: tuple[float, float] | None = None


REPAIRED = frozenset({WarningKind.REPAIRED})
QUILTER = "Quilter is the apostle"
EXPECTED = {
    "01_one_nan_sample.wav": Expected(7, REPAIRED),
    "01_one_inf_sample.wav": Expected(7, REPAIRED),
    "03_3ch_speech_on_3.wav": Expected(7),
    "03_6ch_speech_on_4.wav": Expected(7),
    "03_8ch_speech_on_4.wav": Expected(7),
    "03_9ch_fails.wav": Expected(7, phrase="And so"),
    "03_32ch_fails.wav": Expected(7, phrase="And so"),
    "05_offset5.mkv": Expected(22, first_cue_s=(4.9, 5.5)),
    "05_offset5.mp4": Expected(22, first_cue_s=(4.9, 5.5)),
    "06_hole20.mp4": Expected(22, first_cue_s=(0.0, 0.5), last_cue_s=(25.0, 28.5)),
    "06_hole20.webm": Expected(22, first_cue_s=(0.0, 0.5), last_cue_s=(25.0, 28.5)),
    "07_chained.opus": Expected(39, phrase=QUILTER),
    "07_chained_vorbis.ogg": Expected(39, phrase=QUILTER),
    "08_stale_header_1s_of_11s.wav": Expected(22, REPAIRED),
    "09_concat_mp3_false_cut.mp3": Expected(39, phrase=QUILTER),
    "09_riff_44_bytes_short.wav": Expected(22),
    "09_telegram_no_eos.ogg": Expected(22),
    "11_android.3gpp": Expected(17, phrase=QUILTER),
    "11_openai.mpga": Expected(17, phrase=QUILTER),
    "12_bom.flac": Expected(17, phrase=QUILTER),
    "17_dc_0.1_speech_0.05.wav": Expected(22),
    "17_float_times_32768.wav": Expected(7),
}


@pytest.fixture(scope="module")
def odd_files(speech: Path) -> Path:
    folder = speech / "odd"
    if not folder.is_dir():
        pytest.skip("the odd recordings are not here")
    return folder


@pytest.fixture(scope="module")
def daemon(odd_files: Path, tmp_path_factory: pytest.TempPathFactory) -> DaemonProcess:
    """One run over all files, which must not affect each other."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("odd"))
    for name in EXPECTED:
        folder = daemon.inbox / name  # some names differ only in their extensions
        folder.mkdir()
        shutil.copyfile(odd_files / name, folder / name)
        sidecar = odd_files / f"{name}.toml"
        if sidecar.is_file():
            shutil.copyfile(sidecar, folder / sidecar.name)
    done = daemon.run_once()
    assert done.returncode == 0, done.stdout + done.stderr
    return daemon


def read_cues(path: Path) -> list[float]:
    """Return when each cue begins, in seconds."""
    found = CUE.findall(path.read_text(encoding="utf-8"))
    return [3600 * int(h) + 60 * int(m) + int(s) + int(ms) / 1000 for h, m, s, ms in found]


@pytest.mark.parametrize("name", EXPECTED)
def test_an_unusual_file_has_the_expected_outcome(daemon: DaemonProcess, name: str) -> None:
    expected = EXPECTED[name]
    path = f"{name}/{name}"
    assert daemon.read_statuses()[path] == "completed"
    text = " ".join(daemon.read_texts()[path].split())
    assert expected.phrase in text
    assert len(text.split()) == pytest.approx(expected.words, rel=FIFTH_OF_WORDS)
    rows = daemon.query_ledger("SELECT path, warning_kinds FROM job_status")
    kinds = {row["path"]: set(json.loads(row["warning_kinds"] or "[]")) for row in rows}
    assert kinds[path] == expected.kinds
    folder, stem = daemon.outbox / name, Path(name).stem
    assert " ".join((folder / f"{stem}.txt").read_text("utf-8").split()) == text
    cues = read_cues(folder / f"{stem}.srt")
    if expected.first_cue_s:
        least, most = expected.first_cue_s
        assert least <= cues[0] <= most
    if expected.last_cue_s:
        least, most = expected.last_cue_s
        assert least <= cues[-1] <= most


@pytest.mark.skipif(MODEL_VARIABLE not in os.environ, reason=f"{MODEL_VARIABLE} names no model")
def test_german_followed_by_english(odd_files: Path, tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path)
    daemon.options = ("--model", os.environ[MODEL_VARIABLE], "--settle", "0.2")
    daemon.drop_file(odd_files / "13_de20_then_en60.opus")
    done = daemon.run_once()
    assert done.returncode == 0, done.stdout + done.stderr
    segments = daemon.query_ledger("SELECT start, language FROM segments_text ORDER BY start")
    assert {row["language"] for row in segments if row["start"] < 19.0} == {"de"}
    assert {row["language"] for row in segments if row["start"] > 21.0} == {"en"}
