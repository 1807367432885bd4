"""The examples of docs/python.md and of `transcribe`, with the bundled model."""

import doctest
import re
import shutil
from pathlib import Path

import pytest

import speakeasyd
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


class TextChecker(doctest.OutputChecker):
    """Ignores case, full stops and commas: they depend on the processor's instruction set."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(normalize(want), normalize(got), optionflags)


def normalize(text: str) -> str:
    return re.sub(r"(?<!\.)[.,](?!\.)", "", text).lower()


def run_examples(examples: doctest.DocTest) -> None:
    runner = doctest.DocTestRunner(TextChecker(), optionflags=doctest.ELLIPSIS)
    outcome = runner.run(examples)
    assert outcome.attempted
    assert not outcome.failed


async def test_documented_examples(folder: Path) -> None:
    (folder / "state").mkdir()
    async with ledgers.open_ledger(folder / "state" / LEDGER) as ledger:
        [job] = await ledgers.add_claimed_jobs(ledger, ledgers.build_job("monday.mp3"))
        await ledgers.finish_job(ledger, job, " Good morning.", " The budget is agreed.")
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    run_examples(doctest.DocTestParser().get_doctest(page, {}, "python.md", None, 0))
    assert (folder / "voice_memo.srt").stat().st_size
    [examples] = doctest.DocTestFinder().find(speakeasyd.transcribe)
    run_examples(examples)


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
