"""Adding files to the ledger."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from speakeasyd.domain.job import Sighting, Status, WaitingFile
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import fail_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import forget_waiting_files
from speakeasyd.ledger.new_jobs import add_jobs, find_unknown_files, store_waiting_files
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.transitions import find_lost_claims
from tests.ledgers import (
    add_claimed_jobs,
    build_job,
    finish_job,
    read_status,
    with_newer_time,
)


async def test_a_new_file_is_a_pending_job_in_its_batch(ledger: Ledger) -> None:
    [added] = await ledger.write(add_jobs, [build_job("talks/one.wav", priority=3)])
    row = await read_status(ledger, added.job_id)
    assert added.status is Status.PENDING
    assert (row["path"], row["batch"], row["inbox"], row["priority"]) == (
        "talks/one.wav",
        "talks",
        "inbox",
        3,
    )
    assert row["created_at"] == row["available_at"] == "2026-01-01T00:00:00.000Z"


async def test_a_repeated_sighting_is_one_job(ledger: Ledger) -> None:
    file = build_job("a.wav")
    first, second = await ledger.write(add_jobs, [file, file])
    assert first == second
    assert await ledger.write(add_jobs, [file]) == [first]
    assert len(query_readonly(ledger.path, "SELECT 1 FROM jobs")) == 1


async def test_the_same_bytes_under_the_same_path_are_skipped(ledger: Ledger) -> None:
    [first] = await ledger.write(add_jobs, [build_job("a.wav")])
    [again] = await ledger.write(add_jobs, [with_newer_time(build_job("a.wav"))])
    assert again.status is Status.SKIPPED
    assert (await read_status(ledger, again.job_id))["duplicate_of"] == first.job_id


@pytest.mark.parametrize("end", ["fail", "cancel"])
async def test_equal_bytes_are_retried_after_a_failure(ledger: Ledger, end: str) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    if end == "fail":
        await ledger.write(fail_job, job.id, job.token, code=ErrorCode.INTERNAL, error="broken")
    else:
        await ledger.cancel_jobs([job.id])
    [again] = await ledger.write(add_jobs, [with_newer_time(build_job("a.wav"))])
    assert again.status is Status.PENDING


async def test_new_bytes_replace_an_unfinished_job(ledger: Ledger) -> None:
    [running] = await add_claimed_jobs(ledger, build_job("a.wav", "one"))
    [newer] = await ledger.write(add_jobs, [build_job("a.wav", "two")])
    [newest] = await ledger.write(add_jobs, [build_job("a.wav", "three")])
    replaced = [await read_status(ledger, job_id) for job_id in (running.id, newer.job_id)]
    assert [(row["status"], row["error_code"]) for row in replaced] == [
        ("cancelled", "source_replaced")
    ] * 2
    assert (await read_status(ledger, newest.job_id))["status"] == "pending"
    assert await ledger.read(find_lost_claims, [(running.id, running.token)]) == {running.id}


async def test_of_several_versions_the_last_remains(ledger: Ledger) -> None:
    added = await ledger.write(
        add_jobs, [build_job("a.wav", "one"), build_job("a.wav", "two"), build_job("a.wav", "one")]
    )
    assert [(await read_status(ledger, each.job_id))["status"] for each in added] == [
        "cancelled",
        "cancelled",
        "pending",
    ]


async def test_a_version_that_was_replaced_and_comes_back_is_new(ledger: Ledger) -> None:
    old = build_job("a.wav", "one")
    await ledger.write(add_jobs, [old])
    await ledger.write(add_jobs, [build_job("a.wav", "two")])
    assert await ledger.read(find_unknown_files, "inbox", [Sighting(old.path, old.signature)])
    [back] = await ledger.write(add_jobs, [old])
    assert back.status is Status.PENDING


async def test_a_completed_job_is_kept_when_its_path_gets_new_bytes(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav", "one"))
    await finish_job(ledger, job, " Hello.")
    await ledger.write(add_jobs, [build_job("a.wav", "two")])
    assert (await read_status(ledger, job.id))["status"] == "completed"


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [("reuse", "pending"), ("transcribe", "pending"), ("skip", "skipped")],
)
async def test_the_same_bytes_under_another_path(
    ledger: Ledger, duplicates: str, expected: str
) -> None:
    first, second, elsewhere = await ledger.write(
        add_jobs,
        [
            build_job("a.wav", "same"),
            build_job("b.wav", "same"),
            build_job("a.wav", "same", inbox="other"),
        ],
        duplicates=duplicates,  # type: ignore[arg-type]  # the parameters above are those
    )
    assert [second.status, elsewhere.status] == [expected, expected]
    if expected == "skipped":
        assert (await read_status(ledger, second.job_id))["duplicate_of"] == first.job_id
        assert [
            each.status
            for each in await ledger.write(
                add_jobs, [build_job("c.wav", "same")], duplicates="skip"
            )
        ] == ["skipped"]


async def test_a_refused_file_becomes_a_failed_job(ledger: Ledger) -> None:
    refused = replace(build_job("a.wav"), failure=(ErrorCode.EMPTY_FILE, "zero bytes"), sha256="")
    [added] = await ledger.write(add_jobs, [refused])
    row = await read_status(ledger, added.job_id)
    assert (row["status"], row["error_code"], row["error"]) == (
        "failed",
        "empty_file",
        "zero bytes",
    )
    assert row["finished_at"]
    assert not await ledger.read(
        find_unknown_files, "inbox", [Sighting(refused.path, refused.signature)]
    )


async def test_unknown_files_are_found_by_version_and_inbox(ledger: Ledger) -> None:
    files = [build_job(f"{i}.wav") for i in range(1200)]  # more than fit into one query
    await ledger.write(add_jobs, files[:1000])
    seen = [Sighting(file.path, file.signature) for file in files]
    assert await ledger.read(find_unknown_files, "inbox", seen) == seen[1000:]
    assert await ledger.read(find_unknown_files, "other", seen[:2]) == seen[:2]
    newer = with_newer_time(files[0])
    assert await ledger.read(find_unknown_files, "inbox", [Sighting(newer.path, newer.signature)])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"caf\xc3\xa9.wav", "café.wav"),
        (b"cafe\xcc\x81.wav", "cafe\u0301.wav"),
        (b"latin-\xe9.wav", "latin-\\xe9.wav"),
        (b"new\nline.wav", "new\nline.wav"),
        (b"-rf '; DROP TABLE jobs.wav", "-rf '; DROP TABLE jobs.wav"),
        (b"a" * 255, "a" * 255),
    ],
)
async def test_names_are_kept_as_bytes(ledger: Ledger, raw: bytes, shown: str) -> None:
    [job] = await add_claimed_jobs(ledger, build_job(raw, "content"))
    assert job.path == raw
    assert (await read_status(ledger, job.id))["path"] == shown
    assert os.fsencode(job.locate_source(Path("/inbox"))).endswith(raw)


async def test_waiting_arrivals_replace_those_of_the_same_inbox(ledger: Ledger) -> None:
    growing = WaitingFile(
        path=b"big.wav", size=5, since="2026-01-01T00:00:00.000Z", reason="still growing"
    )
    await ledger.write(store_waiting_files, "inbox", [growing])
    await ledger.write(store_waiting_files, "other", [growing])
    await ledger.write(store_waiting_files, "inbox", [])
    assert [row["inbox"] for row in query_readonly(ledger.path, "SELECT inbox FROM arrivals")] == [
        "other"
    ]


async def test_a_file_with_a_job_is_not_waited_for(ledger: Ledger) -> None:
    """A file that stayed empty fails; until the next report it was still listed."""
    empty, growing = (
        WaitingFile(path=path, size=0, since="2026-01-01T00:00:00.000Z", reason="zero bytes")
        for path in (b"empty.wav", b"big.wav")
    )
    await ledger.write(store_waiting_files, "inbox", [empty, growing])
    await ledger.write(add_jobs, [build_job("empty.wav")])
    assert query_readonly(ledger.path, "SELECT path FROM arrivals") == [{"path": "big.wav"}]
    await ledger.write(forget_waiting_files)  # the next daemon finds it again
    assert query_readonly(ledger.path, "SELECT path FROM arrivals") == []


async def test_an_earlier_version_that_is_moved_back_is_new_once(ledger: Ledger) -> None:
    """It has its old size, times and inode, so only the order of versions identifies it."""
    one, two = build_job("a.wav", "one"), build_job("a.wav", "two")
    sighting = Sighting(one.path, one.signature)
    for file in (one, two):
        [job] = await add_claimed_jobs(ledger, file)
        await finish_job(ledger, job, " text")
    assert await ledger.read(find_unknown_files, "inbox", [sighting]) == [sighting]
    [added] = await ledger.write(add_jobs, [one])
    assert (added.job_id, added.status) == (3, Status.PENDING)
    assert await ledger.read(find_unknown_files, "inbox", [sighting]) == []
    assert await ledger.write(add_jobs, [one]) == [added]


async def test_a_failed_newer_version_leaves_the_earlier_one_current(ledger: Ledger) -> None:
    one, two = build_job("a.wav", "one"), build_job("a.wav", "two")
    [job] = await add_claimed_jobs(ledger, one)
    await finish_job(ledger, job, " text")
    [bad] = await add_claimed_jobs(ledger, two)
    await ledger.write(fail_job, bad.id, bad.token, code="not_media", error="no audio")
    sightings = [Sighting(file.path, file.signature) for file in (one, two)]
    assert await ledger.read(find_unknown_files, "inbox", sightings) == []
    assert [added.job_id for added in await ledger.write(add_jobs, [one])] == [job.id]
