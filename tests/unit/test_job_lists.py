"""Lists of jobs: their order, their parts and their number."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from speakeasyd.ledger.job_lists import JobOrder, count_matching_jobs, list_job_ids, list_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from tests.ledgers import add_claimed_jobs, build_job, finish_job, open_ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with jobs 1 (completed, 60 s), 2 (processing) and 3 (pending)."""
    async with open_ledger(tmp_path / "ledger.db") as ledger:
        done, _ = await add_claimed_jobs(ledger, build_job("b.wav"), build_job("C.wav"))
        await finish_job(ledger, done, " text")
        await ledger.write(add_jobs, [build_job("a.wav")])
        yield ledger


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (JobOrder.NEWEST, [3, 2, 1]),
        (JobOrder.OLDEST, [1, 2, 3]),
        (JobOrder.NAME, [3, 1, 2]),
        (JobOrder.NAME_REVERSED, [2, 1, 3]),
        (JobOrder.LONGEST, [1, 3, 2]),
        (JobOrder.SHORTEST, [2, 3, 1]),
        (JobOrder.STATUS, [2, 3, 1]),
        (JobOrder.STATUS_REVERSED, [1, 3, 2]),
    ],
)
async def test_jobs_are_sorted(ledger: Ledger, order: JobOrder, expected: list[int]) -> None:
    rows = await ledger.read(list_jobs, {}, limit=9, order=order)
    assert [row["job_id"] for row in rows] == expected
    part = await ledger.read(list_jobs, {}, limit=1, order=order, offset=1)
    assert [row["job_id"] for row in part] == expected[1:2]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"status": "pending"},
        {"batch": "talks"},
        {"batch": "none"},
        {"batch": "talks", "status": "completed"},
        {"part": "A.W"},
        {"ids": json.dumps([1, 3, 99])},
        {"transcribed": True},
        {"newest_version": True, "status": "processing"},
    ],
)
async def test_the_number_is_that_of_the_list(ledger: Ledger, filters: dict[str, object]) -> None:
    rows = await ledger.read(list_jobs, filters, limit=9)
    assert await ledger.read(count_matching_jobs, filters) == len(rows)
    assert sorted(row["job_id"] for row in rows) == await ledger.read(list_job_ids, filters)  # type: ignore[type-var]
