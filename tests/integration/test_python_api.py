"""The examples of docs/python.md and of `transcribe`, with the bundled model."""

import doctest
import shutil
from pathlib import Path

import pytest

import speakeasyd
from speakeasyd.api import transcribing
from speakeasyd.ledger.readonly import LEDGER
from tests import ledgers
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.real
SAMPLE = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, tmp_path)
    return tmp_path


async def test_documented_examples(folder: Path) -> None:
    (folder / "state").mkdir()
    async with ledgers.open_ledger(folder / "state" / LEDGER) as ledger:
        [job] = await ledgers.add_claimed_jobs(ledger, ledgers.build_job("monday.mp3"))
        await ledgers.finish_job(ledger, job, " Good morning.", " The budget is agreed.")
    page = REPOSITORY / "docs" / "python.md"
    outcome = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted
    assert not outcome.failed
    assert (folder / "voice_memo.srt").stat().st_size
    outcome = doctest.testmod(transcribing, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted
    assert not outcome.failed


def test_speakers_and_errors(folder: Path) -> None:
    memo = speakeasyd.transcribe(SAMPLE, model="bundled", speakers="auto")
    assert [speaker.label for speaker in memo.speakers] == ["Speaker 1"]
    assert {segment.speaker for segment in memo.segments} == {1}
    assert memo.turns
    (folder / "notes.mp3").write_text("not audio", encoding="utf-8")
    with pytest.raises(speakeasyd.FileFault, match=r"notes\.mp3") as fault:
        speakeasyd.transcribe("notes.mp3", model="bundled")
    assert fault.value.code == "not_media"
    with pytest.raises(speakeasyd.SpeakeasyError, match="no model 'none'") as unknown:
        speakeasyd.transcribe(SAMPLE, model="none")
    assert unknown.value.hint
    with pytest.raises(speakeasyd.SpeakeasyError, match="beam_size"):
        speakeasyd.transcribe(SAMPLE, model="bundled", beam_size=99)
