"""The commands `speakers` and `people` on a real ledger."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.engine.voice_sample import UnfitSample, measure_voice
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.people import VoiceSample, add_voice_sample
from tests.integration.test_cli import CommandLine
from tests.integration.test_diarization import READERS, load_readings, write_wav
from tests.ledgers import add_claimed_jobs, build_job, open_ledger
from tests.unit.test_ledger_speakers import TALK, complete_with_speakers, transcribe_job
from tests.unit.test_speakers import build_embedding


@pytest.fixture
def command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """A command line with a job of three speakers, and a job without speakers."""
    monkeypatch.setenv("COLUMNS", "120")
    command_line = CommandLine(tmp_path, capsys)
    asyncio.run(_fill_ledger(command_line.state / "ledger.db"))
    return command_line


async def _fill_ledger(path: Path) -> None:
    async with open_ledger(path, clock=SystemClock()) as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("talk.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        [other] = await add_claimed_jobs(ledger, build_job("plain.wav"))
        await transcribe_job(ledger, other)
        await complete_with_speakers(ledger, other)
        await ledger.write(
            add_voice_sample, "Anna", VoiceSample("anna.wav", 9.0, build_embedding(1, 500))
        )


async def _publish_jobs(path: Path) -> None:
    async with open_ledger(path, clock=SystemClock()) as ledger:
        for job in await ledger.write(claim_jobs, 5):
            await complete_with_speakers(ledger, job)


def publish_and_list_speakers(command_line: CommandLine) -> list[tuple[int, str]]:
    """Publish as the daemon does. Returns number and name of each speaker."""
    asyncio.run(_publish_jobs(command_line.state / "ledger.db"))
    return [(row["speaker"], row["name"]) for row in command_line.run_for_json("speakers", "1")]


def test_speakers_are_listed(command_line: CommandLine) -> None:
    assert command_line.run_on_state("speakers", "1") == 0
    assert command_line.out.splitlines() == [
        " 1  Speaker 1  0:10  40%  6 words",
        " 2  Speaker 2  0:10  40%  6 words",
        " 3  Speaker 3  0:05  20%  3 words",
    ]
    assert command_line.run_on_state("speakers", "2") == 1
    assert "not told apart" in command_line.err
    assert command_line.run_on_state("speakers", "9") == 1
    assert "there is no job 9" in command_line.err


def test_speakers_are_corrected(command_line: CommandLine) -> None:
    assert (
        command_line.run_on_state("speakers", "1", "--merge", "2,3", "--name", "1= Dr.  Bo ") == 0
    )
    assert "written again when the daemon runs" in command_line.out
    assert publish_and_list_speakers(command_line) == [(1, "Dr. Bo"), (2, "Speaker 2")]
    assert command_line.run_for_json("speakers", "1", "--split", "2", "--name", "1=") == {
        "changed": 1
    }
    assert publish_and_list_speakers(command_line) == [
        (1, "Speaker 1"),
        (2, "Speaker 2"),
        (3, "Speaker 3"),
    ]
    command_line.run_for_json("speakers", "1", "--count", "auto")
    assert publish_and_list_speakers(command_line)[0] == (1, "Anna")


def test_search_by_speaker(command_line: CommandLine) -> None:
    hits = command_line.run_for_json("search", "word", "--speaker", "speaker 2")
    assert [hit["speaker"] for hit in hits] == ["Speaker 2"] * 2
    assert {hit["snippet"] for hit in hits} == {" [word] 2 here."}
    assert command_line.run_on_state("search", "word", "--speaker", "Speaker 3") == 0
    assert "Speaker 3: " in command_line.out
    assert command_line.run_on_state("search", "word", "--speaker", "Anna") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--count", "0"), "from 1 to 30"),
        (("--merge", "2"), "two or more"),
        (("--merge", "2,4"), "there is no speaker 4"),
        (("--name", "Anna"), "such as 2=Anna"),
        (("--split", "7"), "there is no speaker 7"),
        (("--remember", "2"), "speaker 2 has no name"),
        (("--name", "3=Eve", "--remember", "9"), "there is no speaker 9"),
    ],
)
def test_invalid_changes_are_refused(
    command_line: CommandLine, arguments: tuple[str, ...], expected: str
) -> None:
    assert command_line.run_on_state("speakers", "1", *arguments) in {1, 2}
    assert expected in command_line.err


def test_people_are_listed_renamed_and_deleted(command_line: CommandLine) -> None:
    assert command_line.run_on_state("speakers", "1", "--name", "2=Bo") == 0
    assert command_line.run_on_state("speakers", "1", "--remember", "2") == 0
    people = command_line.run_for_json("people", "list")
    assert [person["name"] for person in people] == ["Anna", "Bo"]
    assert people[1]["samples"] == [
        {"source": "job 1, speaker 2", "seconds": 10.0, "model": "campplus-zh-en"}
    ]
    assert command_line.run_on_state("people", "list") == 0
    assert "job 1, speaker 2" in command_line.out
    assert command_line.run_on_state("people", "rename", "Bo", "Anna") == 1
    assert command_line.run_on_state("people", "rename", "Bo", "Bob") == 0
    assert publish_and_list_speakers(command_line)[1] == (2, "Bob")
    assert command_line.run_on_state("people", "rename", "Bob", "Bo") == 0
    assert "written again: 1" in command_line.out
    assert publish_and_list_speakers(command_line)[1] == (2, "Bo")
    assert command_line.run_on_state("speakers", "1", "--name", "3=Eve", "--remember", "3") == 0
    assert command_line.run_on_state("people", "rename", "Eve", "Eva") == 0
    assert publish_and_list_speakers(command_line)[2] == (3, "Eva")
    assert command_line.run_on_state("people", "forget", "Eva") == 0
    assert command_line.run_on_state("people", "merge", "Bo", "Anna") == 0
    assert command_line.run_on_state("people", "forget", "Anna") == 0
    assert command_line.out == "forgotten, with 2 samples\n"
    assert command_line.run_on_state("people", "list") == 0
    assert command_line.out == "nobody is known\n"


@pytest.mark.real
def test_a_voice_sample_needs_a_clear_recording_of_one_person(
    command_line: CommandLine, speech: Path, tmp_path: Path
) -> None:
    first, second = (np.concatenate(load_readings(speech, reader, 2)) for reader in READERS[:2])
    noise = 0.06 * np.random.default_rng(1).standard_normal(first.size)
    path = tmp_path / "sample.wav"
    refused = {
        "and 5 s are needed": first[:48_000],
        "clipped": np.clip(first * 5, -0.1, 0.1),
        "noisy": first + noise,
        "more than one voice": np.concatenate(
            [first[: first.size // 2], second[: second.size // 2]]
        ),
    }
    for reason, sound in refused.items():
        with pytest.raises(UnfitSample, match=reason):
            measure_voice(write_wav(path, sound.astype(np.float32)), 5.0)
    assert command_line.run_on_state("people", "add", "Bo", str(write_wav(path, first))) == 0
    [_, bo] = command_line.run_for_json("people", "list")
    assert bo["samples"][0]["source"] == "sample.wav"
    path.write_text("this is no recording")
    assert command_line.run_on_state("people", "add", "Bo", str(path)) == 1
    assert "sample.wav is no sample of a voice: " in command_line.err
