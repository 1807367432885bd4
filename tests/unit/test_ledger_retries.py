"""A retry of a completed job keeps the finished transcript until the new one is complete."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.job import Job, JobId, Token
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger import retries
from speakeasyd.ledger.claims import claim_jobs, fail_job, release_claim
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import release_stale_claims
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import (
    JobArtifacts,
    complete_jobs,
    load_publications,
    load_transcript,
    reserve_artifacts,
)
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, WorkerResult, add_strike, store_results
from speakeasyd.ledger.search import search_text
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    finish_job,
    load_work,
    open_ledger,
    read_status,
)


async def read_transcript_state(ledger: Ledger, job: Job) -> dict[str, Any]:
    """Return everything that users see of a finished transcript."""
    rows = query_readonly(ledger.path, "SELECT * FROM transcript_text WHERE job_id = ?", [job.id])
    return {
        "view": rows,
        "found": [
            (hit.job_id, hit.snippet) for hit in await ledger.searches.read(search_text, "earlier")
        ],
        "transcript": await ledger.read(load_transcript, job.id),
        "artifacts": query_readonly(
            ledger.path, "SELECT * FROM artifacts WHERE job_id = ?", [job.id]
        ),
    }


async def retried(ledger: Ledger) -> tuple[Job, dict[str, Any], dict[str, Any]]:
    """A completed job that was claimed again, what users saw of it, and its earlier row."""
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await finish_job(ledger, job, " earlier", " text", language="de")
    before, row = await read_transcript_state(ledger, job), await read_status(ledger, job.id)
    await ledger.retry_jobs([job.id])
    [again] = await ledger.write(claim_jobs, 1)
    return again, before, row


def remove_changing_columns(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in row.items() if name not in {"retry_error", "available_at"}
    }


async def test_the_finished_transcript_is_kept_during_the_retry(ledger: Ledger) -> None:
    job, before, _ = await retried(ledger)
    assert before["view"][0]["text"] == "earlier text"
    assert await read_transcript_state(ledger, job) == before
    await ledger.write(store_results, [(job.id, job.token, JobNoted(language="en", model="large"))])
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " newer"))])
    assert await read_transcript_state(ledger, job) == before
    await ledger.write(
        store_results, [(job.id, job.token, Transcribed(audio_seconds=9.0, warnings=()))]
    )
    assert await read_transcript_state(ledger, job) == before
    assert (await load_work(ledger, job)).text == "newer"
    assert (await read_status(ledger, job.id))["has_transcript"] == 1


async def test_a_complete_retry_replaces_it(ledger: Ledger) -> None:
    job, _, _ = await retried(ledger)
    await finish_job(ledger, job, " newer", " words", language="en")
    assert (await ledger.read(load_transcript, job.id)).text == "newer words"
    assert await ledger.searches.read(search_text, "earlier") == []
    assert len(await ledger.searches.read(search_text, "newer")) == 1
    row = await read_status(ledger, job.id)
    assert (row["status"], row["language"], row["retry_error"]) == ("completed", "en", None)
    tables = "SELECT (SELECT count(*) FROM retries) + (SELECT count(*) FROM retry_chunks) AS n"
    assert query_readonly(ledger.path, tables) == [{"n": 0}]
    assert query_readonly(ledger.path, "SELECT count(*) AS n FROM chunks") == [{"n": 2}]


async def test_a_retry_is_stored_and_completed_together_with_other_jobs(ledger: Ledger) -> None:
    again, before, _ = await retried(ledger)
    first, lost = await add_claimed_jobs(ledger, build_job("first.wav"), build_job("lost.wav"))
    await ledger.cancel_jobs([lost.id])
    results: list[tuple[JobId, Token, WorkerResult]] = []
    for job in (again, first, lost):
        chunk = build_chunk(0, f" {job.id}", language="fr")
        french = tuple(replace(segment, language="fr") for segment in chunk.segments)
        reported = (
            JobNoted(language="de", language_probability=0.9),
            replace(chunk, segments=french),
            build_chunk(1, gap=True),
            Transcribed(job.id),
            Transcribed(99.0),  # reported twice
        )
        results += [(job.id, job.token, result) for result in reported]
    assert await ledger.write(store_results, results) == {lost.id}
    assert await read_transcript_state(ledger, again) == before
    assert (await read_status(ledger, lost.id))["language"] is None
    loaded = await ledger.read(load_publications, [first.id, again.id])
    for job, (transcript, own) in zip((first, again), loaded, strict=True):
        assert (transcript.text, transcript.gaps) == (str(job.id), ((10.0, 20.0),))
        assert (transcript.language, transcript.audio_seconds) == ("fr", job.id)
        assert [kind.value for kind in transcript.warning_kinds] == ["left_out"]
        assert bool(own) == (job is again)
    written = [
        JobArtifacts(job.id, job.token, [build_artifact(f"new {job.id}.txt")])
        for job in (again, first)
    ]
    assert await ledger.write(reserve_artifacts, written) == frozenset()
    await ledger.write(complete_jobs, written)
    for job in (again, first):
        assert (await ledger.read(load_transcript, job.id)).text == str(job.id)
        row = await read_status(ledger, job.id)
        assert (row["status"], row["language"], row["language_probability"]) == (
            "completed",
            "fr",
            None,
        )
    names = query_readonly(ledger.path, "SELECT job_id, path FROM artifacts ORDER BY path")
    assert [tuple(row.values()) for row in names] == [
        (job.id, f"new {job.id}.txt") for job in (again, first)
    ]


@pytest.mark.parametrize("claimed_again", [True, False])
async def test_a_cancelled_retry_restores_the_job(ledger: Ledger, claimed_again: bool) -> None:
    job, before, row = await retried(ledger)
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " newer"))])
    if not claimed_again:
        await ledger.write(release_claim, job.id, job.token, available_at=None)
    assert await ledger.cancel_jobs([job.id]) == [job.id]
    assert await read_transcript_state(ledger, job) == before
    assert remove_changing_columns(await read_status(ledger, job.id)) == remove_changing_columns(
        row
    )
    assert (await read_status(ledger, job.id))["retry_error"] is None
    outcomes = [
        one["outcome"]
        for one in query_readonly(ledger.path, "SELECT outcome FROM attempts ORDER BY id")
    ]
    assert outcomes == ["completed", "cancelled" if claimed_again else "released"]


async def test_a_failed_retry_restores_the_job_with_a_reason(ledger: Ledger) -> None:
    job, before, row = await retried(ledger)
    await ledger.write(add_strike, job.id, job.token, chunk=0, start=0.0, end=10.0)
    assert not await ledger.write(
        fail_job, job.id, job.token, code=ErrorCode.POISON, error="it fell over"
    )
    assert await read_transcript_state(ledger, job) == before
    after = await read_status(ledger, job.id)
    assert remove_changing_columns(after) == remove_changing_columns(row)
    assert after["retry_error"] == "poison: it fell over"
    kinds = [
        one["kind"]
        for one in query_readonly(ledger.path, "SELECT kind FROM events ORDER BY seq DESC LIMIT 1")
    ]
    assert kinds == ["job.retry_failed"]
    [batch] = query_readonly(
        ledger.path, "SELECT completed, failed, total, audio_seconds FROM batch_progress"
    )
    assert batch == {"completed": 1, "failed": 0, "total": 1, "audio_seconds": 60.0}


async def test_after_a_failed_retry_another_succeeds(ledger: Ledger) -> None:
    job, _, _ = await retried(ledger)
    await ledger.write(fail_job, job.id, job.token, code=ErrorCode.POISON, error="it fell over")
    await ledger.retry_jobs([job.id])
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.suspects) == (frozenset(), ())
    await finish_job(ledger, again, " newer")
    row = await read_status(ledger, job.id)
    assert (row["status"], row["retry_error"]) == ("completed", None)


async def test_a_restart_in_the_middle_of_a_retry_keeps_its_chunks(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "ledger.db", boot_id="one") as ledger:
        job, before, _ = await retried(ledger)
        await ledger.write(add_strike, job.id, job.token, chunk=0, start=0.0, end=10.0)
        await ledger.write(add_strike, job.id, job.token, chunk=1, start=10.0, end=20.0)
        await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " newer", " part"))])
    async with open_ledger(tmp_path / "ledger.db", boot_id="two") as ledger:
        assert (await ledger.write(release_stale_claims)).jobs == (job.id,)
        [again] = await ledger.write(claim_jobs, 1)
        assert (again.done, again.texts) == ({0}, {0: " newer part"})
        assert [suspect.index for suspect in again.suspects] == [1]
        assert await read_transcript_state(ledger, job) == before
        lost = await ledger.write(
            store_results,
            [
                (again.id, again.token, build_chunk(0, " twice")),
                (again.id, again.token, build_chunk(1)),
            ],
        )
        assert lost == frozenset()
        await ledger.write(
            store_results, [(again.id, again.token, Transcribed(audio_seconds=20.0, warnings=()))]
        )
        await ledger.write(
            complete_jobs, [JobArtifacts(again.id, again.token, [build_artifact("a.txt")])]
        )
        assert (await ledger.read(load_transcript, job.id)).text == "newer part"


async def test_only_gaps_of_the_retry_are_reported(
    ledger: Ledger,
) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    gap = replace(build_chunk(0), segments=(), gap=True)
    await ledger.write(store_results, [(job.id, job.token, gap)])
    await finish_job(ledger, job)
    await ledger.retry_jobs([job.id])
    [again] = await ledger.write(claim_jobs, 1)
    await ledger.write(store_results, [(again.id, again.token, build_chunk(0, " whole"))])
    await ledger.write(
        store_results, [(again.id, again.token, Transcribed(audio_seconds=10.0, warnings=()))]
    )
    assert (await ledger.read(load_transcript, job.id)).gaps == ((0.0, 10.0),)
    assert (await load_work(ledger, job)).gaps == ()
    assert (await read_status(ledger, job.id))["warning"] is None


async def test_a_failure_during_publication_writes_the_files_again(
    ledger: Ledger,
) -> None:
    job, before, _ = await retried(ledger)
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " newer"))])
    await ledger.write(
        store_results, [(job.id, job.token, Transcribed(audio_seconds=10.0, warnings=()))]
    )
    await ledger.write(
        reserve_artifacts, [JobArtifacts(job.id, job.token, [build_artifact("a.txt")])]
    )
    await ledger.cancel_jobs([job.id])
    assert (await ledger.read(load_transcript, job.id)) == before["transcript"]
    [again] = await ledger.write(claim_jobs, 1)
    assert again.transcribed
    assert (await load_work(ledger, job)) == before["transcript"]
    await ledger.write(
        complete_jobs, [JobArtifacts(again.id, again.token, [build_artifact("a.txt")])]
    )
    assert (await read_status(ledger, job.id))["status"] == "completed"


async def test_a_new_version_of_the_file_ends_the_retry_of_the_earlier_one(ledger: Ledger) -> None:
    job, before, _ = await retried(ledger)
    await ledger.write(add_jobs, [build_job("a", "other bytes")])
    assert (await read_status(ledger, job.id))["status"] == "completed"
    assert (await read_transcript_state(ledger, job))["view"] == before["view"]


async def test_statistics_may_be_unknown(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    chunk = build_chunk(0, " text")
    segment = replace(
        chunk.segments[0], avg_logprob=None, compression_ratio=None, no_speech_prob=None
    )
    await ledger.write(store_results, [(job.id, job.token, replace(chunk, segments=(segment,)))])
    assert (await ledger.read(load_transcript, job.id)).segments == (segment,)


async def test_a_pruned_job_removes_its_retry(ledger: Ledger) -> None:
    job, _, _ = await retried(ledger)
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " newer"))])
    await ledger.cancel_jobs([job.id])
    assert await ledger.prune_history(jobs_before="2027", events_before="2020") == 1
    assert query_readonly(
        ledger.path, "SELECT count(*) AS n FROM segments_fts WHERE segments_fts MATCH 'newer'"
    ) == [{"n": 0}]


def test_columns_that_an_earlier_version_did_not_store_are_null() -> None:
    content = {"chunk": {"number": 0}, "segments": [{"text": " Old."}, {"confidence": 0.5}]}
    chunk, [old, new] = retries._parse_content(json.dumps(content))
    assert (chunk["number"], chunk["speakers"]) == (0, None)
    assert (old["text"], old["confidence"], old["local_speaker"]) == (" Old.", None, None)
    assert new["confidence"] == 0.5
