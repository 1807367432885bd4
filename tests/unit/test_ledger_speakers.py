"""Speakers in the ledger: stored with chunks, kept by retries, copied with transcripts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.domain.diarization import MODEL, ChunkSpeakers, LocalSpeaker, SpeakerTurn
from speakeasyd.domain.job import Job
from speakeasyd.domain.transcript import Chunk
from speakeasyd.errors import ClaimLost, SpeakeasyError
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.people import (
    VoiceSample,
    add_voice_sample,
    forget_person,
    load_people,
    merge_people,
    rename_person,
)
from speakeasyd.ledger.publication import JobArtifacts, complete_jobs, load_transcript
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, store_results
from speakeasyd.services.speakers import SpeakerChange, SpeakerLabeller, change_speakers
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    load_work,
    open_ledger,
)
from tests.unit.test_speakers import build_embedding


def build_chunk_with_speakers(index: int, *who: int) -> Chunk:
    """Return a chunk of five seconds in which these speakers say three words each."""
    start = index * 10.0
    chunk = build_chunk(index, *(f" word {speaker} here." for speaker in who))
    turns = tuple(SpeakerTurn(start + i, start + i + 5.0, i) for i in range(len(who)))
    speakers = tuple(
        LocalSpeaker(5.0, build_embedding(speaker, 40 * index + speaker)) for speaker in who
    )
    return replace(
        chunk,
        segments=tuple(replace(one, local_speaker=i) for i, one in enumerate(chunk.segments)),
        speakers=ChunkSpeakers(MODEL, speakers, turns),
    )


async def transcribe_job(ledger: Ledger, job: Job, *chunks: Chunk) -> None:
    await ledger.write(store_results, [(job.id, job.token, chunk) for chunk in chunks])
    await ledger.write(store_results, [(job.id, job.token, Transcribed(audio_seconds=60.0))])
    await SpeakerLabeller(ledger).label_job(job)


async def complete_with_speakers(ledger: Ledger, job: Job) -> None:
    await ledger.write(
        complete_jobs, [JobArtifacts(job.id, job.token, [build_artifact(f"{job.id}.txt")])]
    )


async def read_spoken_text(ledger: Ledger) -> list[tuple[Any, ...]]:
    rows = query_readonly(
        ledger.path,
        'SELECT speaker, speaker_name, text FROM segments_text ORDER BY job_id, start, "end"',
    )
    return [tuple(row.values()) for row in rows]


TALK = (
    build_chunk_with_speakers(0, 1, 2),
    build_chunk_with_speakers(1, 2),
    build_chunk_with_speakers(2, 3, 1),
)
SAID = [
    (1, "Speaker 1", " word 1 here."),
    (2, "Speaker 2", " word 2 here."),
    (2, "Speaker 2", " word 2 here."),
    (3, "Speaker 3", " word 3 here."),
    (1, "Speaker 1", " word 1 here."),
]


async def test_speakers_are_in_the_views(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        assert await read_spoken_text(ledger) == []
        await complete_with_speakers(ledger, job)
        assert await read_spoken_text(ledger) == SAID
        rows = query_readonly(
            ledger.path,
            "SELECT speaker, name, seconds, round(share, 2) AS share, words FROM speakers",
        )
        assert [tuple(row.values()) for row in rows] == [
            (1, "Speaker 1", 10.0, 0.4, 6),
            (2, "Speaker 2", 10.0, 0.4, 6),
            (3, "Speaker 3", 5.0, 0.2, 3),
        ]
        transcript = await ledger.read(load_transcript, job.id)
        assert [segment.speaker for segment in transcript.segments] == [1, 2, 2, 3, 1]
        assert [(turn.start, turn.end, turn.speaker) for turn in transcript.turns] == [
            (0.0, 5.0, 1),
            (1.0, 6.0, 2),
            (10.0, 15.0, 2),
            (20.0, 25.0, 3),
            (21.0, 26.0, 1),
        ]


async def test_without_speakers_nothing_is_stored(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
        await transcribe_job(ledger, job, build_chunk(0, " Hello."))
        await complete_with_speakers(ledger, job)
        assert await read_spoken_text(ledger) == [(None, None, " Hello.")]
        assert query_readonly(ledger.path, "SELECT * FROM speakers") == []
        with pytest.raises(SpeakeasyError, match="not told apart"):
            await change_speakers(ledger, job.id, SpeakerChange(names={1: "Anna"}))


async def test_a_change_is_published_without_the_recording(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        await change_speakers(ledger, job.id, SpeakerChange(merge=(2, 3), names={1: "Anna"}))
        assert await read_spoken_text(ledger) == SAID  # until publication
        with pytest.raises(SpeakeasyError, match="not completed"):
            await change_speakers(ledger, job.id, SpeakerChange(names={1: "Bob"}))
        [again] = await ledger.write(claim_jobs, 1)
        assert again.transcribed
        await SpeakerLabeller(ledger).label_job(again)
        new = await load_work(ledger, job)
        assert [one.label for one in new.speakers] == ["Anna", "Speaker 2"]
        await complete_with_speakers(ledger, again)
        assert [(number, name) for number, name, _ in await read_spoken_text(ledger)] == [
            (1, "Anna"),
            (2, "Speaker 2"),
            (2, "Speaker 2"),
            (2, "Speaker 2"),
            (1, "Anna"),
        ]


async def test_a_cancelled_change_leaves_the_earlier_speakers(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        await change_speakers(ledger, job.id, SpeakerChange(count=2))
        await ledger.cancel_jobs([job.id])
        assert await read_spoken_text(ledger) == SAID


async def test_a_retry_finds_speakers_again_and_keeps_the_finished_ones(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        await ledger.retry_jobs([job.id])
        [retry] = await ledger.write(claim_jobs, 1)
        await transcribe_job(ledger, retry, build_chunk_with_speakers(0, 8))
        assert await read_spoken_text(ledger) == SAID
        assert len((await ledger.read(load_transcript, job.id)).speakers) == 3
        await complete_with_speakers(ledger, retry)
        assert await read_spoken_text(ledger) == [(1, "Speaker 1", " word 8 here.")]


async def test_a_copied_transcript_has_the_same_speakers(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", "same", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        [twin] = await add_claimed_jobs(ledger, build_job("b.wav", "same", speakers="auto"))
        assert twin.transcribed
        await SpeakerLabeller(ledger).label_job(twin)
        await complete_with_speakers(ledger, twin)
        assert await read_spoken_text(ledger) == SAID * 2


async def test_a_chunk_whose_speakers_are_unknown_is_a_warning(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        failed = replace(build_chunk(3, " Who?"), speakers=ChunkSpeakers(MODEL, error="it broke"))
        await transcribe_job(ledger, job, *TALK, failed)
        await complete_with_speakers(ledger, job)
        assert (await read_spoken_text(ledger))[-1] == (None, None, " Who?")
        [row] = query_readonly(ledger.path, "SELECT warning, warning_kinds FROM job_status")
        assert row["warning"] == "speakers could not be told apart everywhere: it broke"
        assert row["warning_kinds"] == '["other"]'


async def test_a_lost_claim_changes_nothing(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await ledger.write(store_results, [(job.id, job.token, TALK[0])])
        await ledger.cancel_jobs([job.id])
        with pytest.raises(ClaimLost):
            await SpeakerLabeller(ledger).label_job(job)


async def test_known_people_are_recognised(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.write(
            add_voice_sample, " Anna  B ", VoiceSample("anna.wav", 9.0, build_embedding(1, 500))
        )
        await ledger.write(
            add_voice_sample, "Anna B", VoiceSample("phone.wav", 6.0, build_embedding(1, 501))
        )
        await ledger.write(
            add_voice_sample, "Bob", VoiceSample("bob.wav", 8.0, build_embedding(3, 502))
        )
        [job] = await add_claimed_jobs(ledger, build_job("a.wav", speakers="auto"))
        await transcribe_job(ledger, job, *TALK)
        await complete_with_speakers(ledger, job)
        names = [name for _, name, _ in await read_spoken_text(ledger)]
        assert names == ["Anna B", "Speaker 2", "Speaker 2", "Bob", "Anna B"]
        assert await ledger.write(rename_person, "Anna B", "Ann") == [job.id]
        [again] = await ledger.write(claim_jobs, 1)
        await complete_with_speakers(ledger, again)
        assert (await read_spoken_text(ledger))[0][1] == "Ann"
        with pytest.raises(SpeakeasyError, match="already"):
            await ledger.write(rename_person, "Ann", "Bob")
        with pytest.raises(SpeakeasyError, match="no person"):
            await ledger.write(forget_person, "Eve")
        assert await ledger.write(merge_people, "Bob", "Ann") == [job.id]
        [ann] = await ledger.read(load_people)
        assert [sample.source for sample in ann.samples] == ["anna.wav", "phone.wav", "bob.wav"]
        assert await ledger.write(forget_person, "Ann") == 3
        assert await ledger.read(load_people) == []
        [again] = await ledger.write(claim_jobs, 1)
        await complete_with_speakers(ledger, again)
        names = [name for _, name, _ in await read_spoken_text(ledger)]
        assert names == [
            "Ann",
            "Speaker 2",
            "Speaker 2",
            "Ann",
            "Ann",
        ]  # published text is unchanged
        for wrong in ("", "x" * 101, "a\nb\x07"):
            with pytest.raises(SpeakeasyError, match="name"):
                await ledger.write(add_voice_sample, wrong, VoiceSample("a.wav", 9.0, b""))


async def test_a_deleted_voice_is_overwritten(tmp_path: Path) -> None:
    voice = build_embedding(7, 700)
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.write(add_voice_sample, "Anna", VoiceSample("anna.wav", 9.0, voice))
    assert voice in (tmp_path / "ledger.db").read_bytes()
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        await ledger.write(forget_person, "Anna")
    assert voice not in (tmp_path / "ledger.db").read_bytes()
