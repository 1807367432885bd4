"""The commands `speakers` and `people` on a real ledger."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.engine.voice_sample import UnfitSample, measure_voice
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.people import VoiceSample, add_voice_sample
from tests.integration.test_cli import Desk
from tests.integration.test_diarization import READERS, readings, write_wav
from tests.ledgers import a_file, claimed, opened
from tests.unit.test_ledger_speakers import TALK, complete, transcribe
from tests.unit.test_speakers import heard


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    """With a job of three speakers, and a job whose speakers are not told apart."""
    monkeypatch.setenv("COLUMNS", "120")
    desk = Desk(tmp_path, capsys)
    asyncio.run(_fill(desk.state / "ledger.db"))
    return desk


async def _fill(path: Path) -> None:
    async with opened(path, clock=SystemClock()) as ledger:
        [job] = await claimed(ledger, a_file("talk.wav", speakers="auto"))
        await transcribe(ledger, job, *TALK)
        await complete(ledger, job)
        [other] = await claimed(ledger, a_file("plain.wav"))
        await transcribe(ledger, other)
        await complete(ledger, other)
        await ledger.write(add_voice_sample, "Anna", VoiceSample("anna.wav", 9.0, heard(1, 500)))


async def _publish(path: Path) -> None:
    async with opened(path, clock=SystemClock()) as ledger:
        for job in await ledger.write(claim_jobs, 5):
            await complete(ledger, job)


def published(desk: Desk) -> list[tuple[int, str]]:
    """Publish, as the daemon does. Returns number and name of each speaker."""
    asyncio.run(_publish(desk.state / "ledger.db"))
    return [(row["speaker"], row["name"]) for row in desk.gets("speakers", "1")]


def test_who_speaks(desk: Desk) -> None:
    assert desk.asks("speakers", "1") == 0
    assert desk.out.splitlines() == [
        " 1  Speaker 1  0:10  40%  6 words",
        " 2  Speaker 2  0:10  40%  6 words",
        " 3  Speaker 3  0:05  20%  3 words",
    ]
    assert desk.asks("speakers", "2") == 1
    assert "not told apart" in desk.err
    assert desk.asks("speakers", "9") == 1
    assert "there is no job 9" in desk.err


def test_speakers_are_corrected(desk: Desk) -> None:
    assert desk.asks("speakers", "1", "--merge", "2,3", "--name", "1= Dr.  Bo ") == 0
    assert "written again when the daemon runs" in desk.out
    assert published(desk) == [(1, "Dr. Bo"), (2, "Speaker 2")]
    assert desk.gets("speakers", "1", "--split", "2", "--name", "1=") == {"changed": 1}
    assert published(desk) == [(1, "Speaker 1"), (2, "Speaker 2"), (3, "Speaker 3")]
    desk.gets("speakers", "1", "--count", "auto")
    assert published(desk)[0] == (1, "Anna")


def test_what_a_speaker_says_is_found(desk: Desk) -> None:
    hits = desk.gets("search", "word", "--speaker", "speaker 2")
    assert [hit["speaker"] for hit in hits] == ["Speaker 2"] * 2
    assert {hit["snippet"] for hit in hits} == {" [word] 2 here."}
    assert desk.asks("search", "word", "--speaker", "Speaker 3") == 0
    assert "Speaker 3: " in desk.out
    assert desk.asks("search", "word", "--speaker", "Anna") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_what_cannot_be_changed(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    assert desk.asks("speakers", "1", *arguments) in {1, 2}
    assert said in desk.err


def test_people(desk: Desk) -> None:
    assert desk.asks("speakers", "1", "--name", "2=Bo") == 0
    assert desk.asks("speakers", "1", "--remember", "2") == 0
    people = desk.gets("people", "list")
    assert [person["name"] for person in people] == ["Anna", "Bo"]
    assert people[1]["samples"] == [
        {"source": "job 1, speaker 2", "seconds": 10.0, "model": "campplus-zh-en"}
    ]
    assert desk.asks("people", "list") == 0
    assert "job 1, speaker 2" in desk.out
    assert desk.asks("people", "rename", "Bo", "Anna") == 1
    assert desk.asks("people", "rename", "Bo", "Bob") == 0
    assert published(desk)[1] == (2, "Bob")
    assert desk.asks("people", "rename", "Bob", "Bo") == 0
    assert "written again: 1" in desk.out
    assert published(desk)[1] == (2, "Bo")
    assert desk.asks("speakers", "1", "--name", "3=Eve", "--remember", "3") == 0
    assert desk.asks("people", "rename", "Eve", "Eva") == 0
    assert published(desk)[2] == (3, "Eva")
    assert desk.asks("people", "forget", "Eva") == 0
    assert desk.asks("people", "merge", "Bo", "Anna") == 0
    assert desk.asks("people", "forget", "Anna") == 0
    assert desk.out == "forgotten, with 2 samples\n"
    assert desk.asks("people", "list") == 0
    assert desk.out == "nobody is known\n"


@pytest.mark.real
def test_only_a_clear_recording_of_one_person_is_a_sample(
    desk: Desk, speech: Path, tmp_path: Path
) -> None:
    first, second = (np.concatenate(readings(speech, reader, 2)) for reader in READERS[:2])
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
    assert desk.asks("people", "add", "Bo", str(write_wav(path, first))) == 0
    [_, bo] = desk.gets("people", "list")
    assert bo["samples"][0]["source"] == "sample.wav"
    path.write_text("this is no recording")
    assert desk.asks("people", "add", "Bo", str(path)) == 1
    assert "sample.wav is no sample of a voice: " in desk.err
