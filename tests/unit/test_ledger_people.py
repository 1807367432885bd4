"""Requests of people: retry and cancel."""

from dataclasses import replace

import pytest

from speakeasyd.errors import ErrorCode, QueryError
from speakeasyd.ledger.claims import claim_jobs, fail_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import JobArtifacts, complete_jobs
from speakeasyd.ledger.readonly import find_matching_jobs, query_readonly
from speakeasyd.ledger.results import Transcribed, add_strike, store_results
from speakeasyd.ledger.transitions import find_lost_claims
from tests.ledgers import (
    add_claimed_jobs,
    build_chunk,
    build_job,
    finish_job,
    read_status,
    with_newer_time,
)


async def test_a_retry_of_a_completed_job_starts_over(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await finish_job(ledger, job, " wrong")
    assert await ledger.retry_jobs([job.id]) == [job.id]
    row = await read_status(ledger, job.id)
    assert (row["status"], row["progress"], row["attempts"], row["finished_at"]) == (
        "pending",
        0.0,
        0,
        None,
    )
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.transcribed, again.attempts) == (frozenset(), False, 1)


async def test_a_retry_of_a_failed_job_keeps_its_chunks(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " right"))])
    await ledger.write(add_strike, job.id, job.token, chunk=1, start=10.0, end=20.0)
    await ledger.write(fail_job, job.id, job.token, code=ErrorCode.POISON, error="poison")
    assert await ledger.retry_jobs([job.id]) == [job.id]
    row = await read_status(ledger, job.id)
    assert (row["status"], row["attempts"], row["error_code"], row["finished_at"]) == (
        "pending",
        0,
        None,
        None,
    )
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.suspects, again.attempts, again.texts) == ({0}, (), 1, {0: " right"})


async def test_a_retry_of_a_job_with_a_gap_starts_over(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        store_results, [(job.id, job.token, replace(build_chunk(0), segments=(), gap=True))]
    )
    await ledger.write(fail_job, job.id, job.token, code=ErrorCode.OUTPUT_REFUSED, error="no place")
    await ledger.retry_jobs([job.id])
    [again] = await ledger.write(claim_jobs, 1)
    assert again.done == frozenset()


async def test_a_retry_is_transcribed_not_copied(ledger: Ledger) -> None:
    [one] = await add_claimed_jobs(ledger, build_job("a", "same"))
    await finish_job(ledger, one, " Hello.")
    [twin] = await add_claimed_jobs(ledger, build_job("b", "same"))
    await ledger.write(complete_jobs, [JobArtifacts(twin.id, twin.token, [])])
    await ledger.retry_jobs([twin.id])
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.id, again.transcribed) == (twin.id, False)


async def test_only_ended_jobs_are_retried(ledger: Ledger) -> None:
    running, waiting = (
        (await add_claimed_jobs(ledger, build_job("a")))[0],
        (await ledger.write(add_jobs, [build_job("b")]))[0],
    )
    assert await ledger.retry_jobs([running.id, waiting.job_id, 99]) == []
    assert await ledger.read(find_lost_claims, [(running.id, running.token)]) == frozenset()


async def test_a_skipped_file_can_be_transcribed_after_all(ledger: Ledger) -> None:
    await ledger.write(add_jobs, [build_job("a")])
    [again] = await ledger.write(add_jobs, [with_newer_time(build_job("a"))])
    assert await ledger.retry_jobs([again.job_id]) == [again.job_id]
    assert (await read_status(ledger, again.job_id))["duplicate_of"] is None


async def test_a_version_without_its_bytes_is_not_retried(ledger: Ledger) -> None:
    [old] = await ledger.write(add_jobs, [build_job("a", "one")])
    [new] = await ledger.write(add_jobs, [build_job("a", "two")])
    await ledger.cancel_jobs([new.job_id])
    assert await ledger.retry_jobs([old.job_id, new.job_id]) == [new.job_id]


async def test_a_condition_chooses_what_is_retried(ledger: Ledger) -> None:
    jobs = await add_claimed_jobs(ledger, build_job("a"), build_job("b"), build_job("c"))
    for job, code in zip(
        jobs, (ErrorCode.POISON, ErrorCode.POISON, ErrorCode.NO_AUDIO), strict=True
    ):
        await ledger.write(fail_job, job.id, job.token, code=code, error="")
    condition = "error_code = 'poison' AND path <> 'b' -- the first"
    chosen = await ledger.retry_jobs(find_matching_jobs(ledger.path, condition))
    assert chosen == [jobs[0].id]


@pytest.mark.parametrize(
    "condition",
    [
        "1) ; DELETE FROM jobs; --",
        "job_id IN (DELETE FROM jobs RETURNING id)",
        "no_such_column",
        "load_extension('x')",
        "(",
    ],
)
async def test_a_condition_cannot_change_anything(ledger: Ledger, condition: str) -> None:
    await ledger.write(add_jobs, [build_job("a")])
    with pytest.raises(QueryError):
        find_matching_jobs(ledger.path, condition)
    assert len(query_readonly(ledger.path, "SELECT 1 FROM jobs")) == 1


async def test_cancelling_takes_a_job_from_its_worker(ledger: Ledger) -> None:
    [running] = await add_claimed_jobs(ledger, build_job("a"))
    [waiting] = await ledger.write(add_jobs, [build_job("b")])
    assert await ledger.cancel_jobs([running.id, waiting.job_id, 99]) == [
        running.id,
        waiting.job_id,
    ]
    late = [(running.id, running.token, Transcribed(audio_seconds=1.0))]
    assert await ledger.write(store_results, late) == {running.id}
    row = await read_status(ledger, running.id)
    assert (row["status"], row["error_code"]) == ("cancelled", "cancelled")
    assert query_readonly(ledger.path, "SELECT outcome FROM attempts") == [{"outcome": "cancelled"}]
    assert await ledger.cancel_jobs([running.id]) == []
