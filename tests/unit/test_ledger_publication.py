"""JobArtifacts: order of the text, and unique names."""

import pytest

from speakeasyd.domain.transcript import Chunk, Segment, Word
from speakeasyd.errors import ClaimLost, LedgerError
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.publication import (
    JobArtifacts,
    complete_jobs,
    find_taken_names,
    load_transcript,
    reserve_artifacts,
)
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import store_results
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    finish_job,
    read_status,
)


async def read_text(ledger: Ledger, job_id: int) -> object:
    [row] = query_readonly(
        ledger.path, "SELECT text FROM transcript_text WHERE job_id = ?", [job_id]
    )
    return row["text"]


async def test_segments_are_ordered_by_time(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("sub/a.wav"))
    chunks = [build_chunk(1, " three,", " four"), build_chunk(0, " One,", " two,")]
    await ledger.write(store_results, [(job.id, job.token, chunk) for chunk in chunks])
    transcript = await ledger.read(load_transcript, job.id)
    assert (transcript.text, transcript.source) == ("One, two, three, four", "a.wav")
    await ledger.write(complete_jobs, [JobArtifacts(job.id, job.token, [])])
    assert await read_text(ledger, job.id) == "One, two, three, four"


async def test_channels_are_merged_by_time(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("call.wav"))

    def build_segment_at(index: int, start: float, text: str, channel: int) -> Chunk:
        return Chunk(
            index,
            start,
            start + 1,
            (Segment(start, start + 1, text, -0.1, 1.0, 0.0, channel),),
            channel,
        )

    talk = [
        build_segment_at(0, 0.0, " Hi.", 0),
        build_segment_at(1, 4.0, " Fine.", 0),
        build_segment_at(2, 2.0, " How are you?", 1),
    ]
    await ledger.write(store_results, [(job.id, job.token, chunk) for chunk in talk])
    transcript = await ledger.read(load_transcript, job.id)
    assert [(s.text, s.channel) for s in transcript.segments] == [
        (" Hi.", 0),
        (" How are you?", 1),
        (" Fine.", 0),
    ]
    await ledger.write(complete_jobs, [JobArtifacts(job.id, job.token, [])])
    assert await read_text(ledger, job.id) == transcript.text


async def test_a_stored_segment_is_equal(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    words = (Word(0.1, 0.30000000000000004, " Grüß", 0.5), Word(0.3, 0.9, " «Gott»", 1.0))
    segment = Segment(
        0.1, 0.9, " Grüß «Gott»", -0.25, 1.5, 1e-9, channel=1, words=words, confidence=0.75
    )
    await ledger.write(store_results, [(job.id, job.token, Chunk(0, 0.0, 1.0, (segment,)))])
    assert (await ledger.read(load_transcript, job.id)).segments == (segment,)


async def test_silence_gives_an_empty_text(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    await finish_job(ledger, job)
    assert (await ledger.read(load_transcript, job.id)).text == ""
    assert await read_text(ledger, job.id) == ""


async def test_there_is_no_transcript_of_an_unknown_job(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no job 7"):
        await ledger.read(load_transcript, 7)


@pytest.mark.parametrize("twin", ["talk.txt", "TALK.txt", "cafe\u0301.txt"])
async def test_a_name_belongs_to_one_job(ledger: Ledger, twin: str) -> None:
    one, two = await add_claimed_jobs(ledger, build_job("a"), build_job("b"))
    assert (
        await ledger.write(
            reserve_artifacts,
            [
                JobArtifacts(
                    one.id, one.token, [build_artifact("talk.txt"), build_artifact("caf\u00e9.txt")]
                )
            ],
        )
        == frozenset()
    )
    assert await ledger.read(find_taken_names, "/outbox", [twin, "free.txt"], job_id=two.id) == {
        twin
    }
    assert await ledger.read(find_taken_names, "/outbox", [twin], job_id=one.id) == set()
    assert await ledger.read(find_taken_names, "/elsewhere", [twin], job_id=two.id) == set()
    assert await ledger.write(
        reserve_artifacts,
        [JobArtifacts(two.id, two.token, [build_artifact("free.txt"), build_artifact(twin)])],
    ) == {two.id}
    assert await ledger.read(find_taken_names, "/outbox", ["free.txt"], job_id=one.id) == set()


@pytest.mark.parametrize("twin", ["talk.txt", "TALK.txt", "cafe\u0301.txt"])
async def test_a_name_that_several_jobs_want_at_once_is_given_to_the_first(
    ledger: Ledger, twin: str
) -> None:
    jobs = await add_claimed_jobs(ledger, *map(build_job, "abc"))
    names = [["talk.txt", "caf\u00e9.txt"], ["free.txt", twin], ["other.txt"]]
    wanted = [
        JobArtifacts(job.id, job.token, list(map(build_artifact, of_job)))
        for job, of_job in zip(jobs, names, strict=True)
    ]
    assert await ledger.write(reserve_artifacts, wanted) == {jobs[1].id}
    reserved = query_readonly(ledger.path, "SELECT job_id, path FROM artifacts ORDER BY id")
    assert [tuple(row.values()) for row in reserved] == [
        (jobs[0].id, "talk.txt"),
        (jobs[0].id, "caf\u00e9.txt"),
        (jobs[2].id, "other.txt"),
    ]
    assert await ledger.write(reserve_artifacts, wanted) == {jobs[1].id}, "also when repeated"


async def test_an_outbox_may_have_any_path(ledger: Ledger) -> None:
    jobs = await add_claimed_jobs(ledger, build_job("a"), build_job("b"))
    wanted = [
        JobArtifacts(job.id, job.token, [build_artifact("talk.txt", "/out\udcffbox")])
        for job in jobs
    ]
    assert await ledger.write(reserve_artifacts, wanted[:1]) == frozenset()
    assert await ledger.write(reserve_artifacts, wanted[1:]) == {jobs[1].id}


async def test_one_lost_claim_leaves_all_jobs_as_they_were(ledger: Ledger) -> None:
    one, two = await add_claimed_jobs(ledger, build_job("a"), build_job("b"))
    await ledger.cancel_jobs([two.id])
    wanted = [JobArtifacts(job.id, job.token, [build_artifact(f"{job.id}")]) for job in (one, two)]
    for operation in (reserve_artifacts, complete_jobs):
        with pytest.raises(ClaimLost, match=f"job {two.id} "):
            await ledger.write(operation, wanted)
    assert (await read_status(ledger, one.id))["status"] == "processing"
    assert query_readonly(ledger.path, "SELECT 1 FROM artifacts") == []


async def test_completion_records_the_written_files(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        reserve_artifacts, [JobArtifacts(job.id, job.token, [build_artifact("old.txt")])]
    )
    assert query_readonly(ledger.path, "SELECT written_at FROM artifacts") == [{"written_at": None}]
    await ledger.write(
        complete_jobs, [JobArtifacts(job.id, job.token, [build_artifact("new.txt")])]
    )
    [artifact] = query_readonly(ledger.path, "SELECT path, written_at FROM artifacts")
    assert artifact == {"path": "new.txt", "written_at": "2026-01-01T00:00:00.000Z"}
    row = await read_status(ledger, job.id)
    assert (row["status"], row["progress"], row["finished_at"]) == (
        "completed",
        1.0,
        "2026-01-01T00:00:00.000Z",
    )
