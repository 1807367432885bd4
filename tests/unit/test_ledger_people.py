"""What people ask for: again, or no more."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from speakeasyd.errors import ClaimLost, ErrorCode, QueryError
from speakeasyd.ledger.claims import claim_jobs, fail_job, find_lost_claims
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import complete_job
from speakeasyd.ledger.readonly import find_matching_jobs, query_readonly
from speakeasyd.ledger.results import add_strike, mark_transcribed, store_chunks
from tests.ledgers import a_chunk, a_file, claimed, finish, opened, status, touched


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with opened(tmp_path / "ledger.db") as ledger:
        yield ledger


async def test_a_retry_of_what_was_completed_begins_from_nothing(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await finish(ledger, job, " wrong")
    assert await ledger.retry_jobs([job.id]) == [job.id]
    row = await status(ledger, job.id)
    assert (row["status"], row["progress"], row["attempts"], row["finished_at"]) == (
        "pending",
        0.0,
        0,
        None,
    )
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.transcribed, again.attempts) == (frozenset(), False, 1)


async def test_a_retry_of_what_failed_keeps_the_work_that_is_done(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(store_chunks, [(job.id, job.token, a_chunk(0, " right"))])
    await ledger.write(add_strike, job.id, job.token, chunk=1, start=10.0, end=20.0)
    await ledger.write(fail_job, job.id, job.token, code=ErrorCode.POISON, error="poison")
    assert await ledger.retry_jobs([job.id]) == [job.id]
    row = await status(ledger, job.id)
    assert (row["status"], row["attempts"], row["error_code"], row["finished_at"]) == (
        "pending",
        0,
        None,
        None,
    )
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.suspects, again.attempts, again.said) == ({0}, (), 1, {0: " right"})


async def test_a_retry_of_what_has_a_gap_begins_from_nothing(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(
        store_chunks, [(job.id, job.token, replace(a_chunk(0), segments=(), gap=True))]
    )
    await ledger.write(fail_job, job.id, job.token, code=ErrorCode.OUTPUT_REFUSED, error="no place")
    await ledger.retry_jobs([job.id])
    [again] = await ledger.write(claim_jobs, 1)
    assert again.done == frozenset()


async def test_a_retry_is_done_again_and_not_lent(ledger: Ledger) -> None:
    [one] = await claimed(ledger, a_file("a", "same"))
    await finish(ledger, one, " Hello.")
    [twin] = await claimed(ledger, a_file("b", "same"))
    await ledger.write(complete_job, twin.id, twin.token, [])
    await ledger.retry_jobs([twin.id])
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.id, again.transcribed) == (twin.id, False)


async def test_only_what_has_ended_is_retried(ledger: Ledger) -> None:
    running, waiting = (
        (await claimed(ledger, a_file("a")))[0],
        (await ledger.write(add_jobs, [a_file("b")]))[0],
    )
    assert await ledger.retry_jobs([running.id, waiting.job_id, 99]) == []
    assert await ledger.read(find_lost_claims, [(running.id, running.token)]) == frozenset()


async def test_a_skipped_file_can_be_transcribed_after_all(ledger: Ledger) -> None:
    await ledger.write(add_jobs, [a_file("a")])
    [again] = await ledger.write(add_jobs, [touched(a_file("a"))])
    assert await ledger.retry_jobs([again.job_id]) == [again.job_id]
    assert (await status(ledger, again.job_id))["duplicate_of"] is None


async def test_a_version_whose_bytes_are_gone_is_not_retried(ledger: Ledger) -> None:
    [old] = await ledger.write(add_jobs, [a_file("a", "one")])
    [new] = await ledger.write(add_jobs, [a_file("a", "two")])
    await ledger.cancel_jobs([new.job_id])
    assert await ledger.retry_jobs([old.job_id, new.job_id]) == [new.job_id]


async def test_a_condition_chooses_what_is_retried(ledger: Ledger) -> None:
    jobs = await claimed(ledger, a_file("a"), a_file("b"), a_file("c"))
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
async def test_a_condition_can_only_ask(ledger: Ledger, condition: str) -> None:
    await ledger.write(add_jobs, [a_file("a")])
    with pytest.raises(QueryError):
        find_matching_jobs(ledger.path, condition)
    assert len(query_readonly(ledger.path, "SELECT 1 FROM jobs")) == 1


async def test_cancelling_takes_a_job_from_its_worker(ledger: Ledger) -> None:
    [running] = await claimed(ledger, a_file("a"))
    [waiting] = await ledger.write(add_jobs, [a_file("b")])
    assert await ledger.cancel_jobs([running.id, waiting.job_id, 99]) == [
        running.id,
        waiting.job_id,
    ]
    with pytest.raises(ClaimLost):
        await ledger.write(mark_transcribed, running.id, running.token, audio_seconds=1.0)
    row = await status(ledger, running.id)
    assert (row["status"], row["error_code"]) == ("cancelled", "cancelled")
    assert query_readonly(ledger.path, "SELECT outcome FROM attempts") == [{"outcome": "cancelled"}]
    assert await ledger.cancel_jobs([running.id]) == []
