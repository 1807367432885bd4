"""What becomes of a file at the ledger's door."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from speakeasyd.domain.job import Sighting, Status, WaitingFile
from speakeasyd.errors import ErrorCode
from speakeasyd.ledger.claims import fail_job, find_lost_claims
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs, find_unknown_files, store_waiting_files
from speakeasyd.ledger.readonly import query_readonly
from tests.ledgers import a_file, claimed, finish, opened, status, touched


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with opened(tmp_path / "ledger.db") as ledger:
        yield ledger


async def test_a_new_file_is_a_pending_job_in_its_batch(ledger: Ledger) -> None:
    [added] = await ledger.write(add_jobs, [a_file("talks/one.wav", priority=3)])
    row = await status(ledger, added.job_id)
    assert added.status is Status.PENDING
    assert (row["path"], row["batch"], row["inbox"], row["priority"]) == (
        "talks/one.wav",
        "talks",
        "inbox",
        3,
    )
    assert row["created_at"] == row["available_at"] == "2026-01-01T00:00:00.000Z"


async def test_the_same_sighting_twice_is_one_job(ledger: Ledger) -> None:
    file = a_file("a.wav")
    first, second = await ledger.write(add_jobs, [file, file])
    assert first == second
    assert await ledger.write(add_jobs, [file]) == [first]
    assert len(query_readonly(ledger.path, "SELECT 1 FROM jobs")) == 1


async def test_the_same_bytes_under_the_same_path_are_skipped(ledger: Ledger) -> None:
    [first] = await ledger.write(add_jobs, [a_file("a.wav")])
    [again] = await ledger.write(add_jobs, [touched(a_file("a.wav"))])
    assert again.status is Status.SKIPPED
    assert (await status(ledger, again.job_id))["duplicate_of"] == first.job_id


@pytest.mark.parametrize("end", ["fail", "cancel"])
async def test_the_same_bytes_get_another_chance_if_the_first_came_to_nothing(
    ledger: Ledger, end: str
) -> None:
    [job] = await claimed(ledger, a_file("a.wav"))
    if end == "fail":
        await ledger.write(fail_job, job.id, job.token, code=ErrorCode.INTERNAL, error="broken")
    else:
        await ledger.cancel_jobs([job.id])
    [again] = await ledger.write(add_jobs, [touched(a_file("a.wav"))])
    assert again.status is Status.PENDING


async def test_new_bytes_under_an_old_path_replace_what_has_not_ended(ledger: Ledger) -> None:
    [running] = await claimed(ledger, a_file("a.wav", "one"))
    [newer] = await ledger.write(add_jobs, [a_file("a.wav", "two")])
    [newest] = await ledger.write(add_jobs, [a_file("a.wav", "three")])
    replaced = [await status(ledger, job_id) for job_id in (running.id, newer.job_id)]
    assert [(row["status"], row["error_code"]) for row in replaced] == [
        ("cancelled", "source_replaced")
    ] * 2
    assert (await status(ledger, newest.job_id))["status"] == "pending"
    assert await ledger.read(find_lost_claims, [(running.id, running.token)]) == {running.id}


async def test_versions_that_come_together_leave_the_last(ledger: Ledger) -> None:
    added = await ledger.write(
        add_jobs, [a_file("a.wav", "one"), a_file("a.wav", "two"), a_file("a.wav", "one")]
    )
    assert [(await status(ledger, each.job_id))["status"] for each in added] == [
        "cancelled",
        "cancelled",
        "pending",
    ]


async def test_a_version_that_was_replaced_and_comes_back_is_new(ledger: Ledger) -> None:
    old = a_file("a.wav", "one")
    await ledger.write(add_jobs, [old])
    await ledger.write(add_jobs, [a_file("a.wav", "two")])
    assert await ledger.read(find_unknown_files, "inbox", [Sighting(old.path, old.signature)])
    [back] = await ledger.write(add_jobs, [old])
    assert back.status is Status.PENDING


async def test_a_completed_job_stays_when_its_path_gets_new_bytes(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a.wav", "one"))
    await finish(ledger, job, " Hello.")
    await ledger.write(add_jobs, [a_file("a.wav", "two")])
    assert (await status(ledger, job.id))["status"] == "completed"


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [("reuse", "pending"), ("transcribe", "pending"), ("skip", "skipped")],
)
async def test_the_same_bytes_under_another_path(
    ledger: Ledger, duplicates: str, expected: str
) -> None:
    first, second, elsewhere = await ledger.write(
        add_jobs,
        [a_file("a.wav", "same"), a_file("b.wav", "same"), a_file("a.wav", "same", inbox="other")],
        duplicates=duplicates,  # type: ignore[arg-type]  # the parameters above are those
    )
    assert [second.status, elsewhere.status] == [expected, expected]
    if expected == "skipped":
        assert (await status(ledger, second.job_id))["duplicate_of"] == first.job_id
        assert [
            each.status
            for each in await ledger.write(add_jobs, [a_file("c.wav", "same")], duplicates="skip")
        ] == ["skipped"]


async def test_a_file_refused_at_the_door_is_failed_at_once(ledger: Ledger) -> None:
    refused = replace(a_file("a.wav"), failure=(ErrorCode.EMPTY_FILE, "zero bytes"), sha256="")
    [added] = await ledger.write(add_jobs, [refused])
    row = await status(ledger, added.job_id)
    assert (row["status"], row["error_code"], row["error"]) == (
        "failed",
        "empty_file",
        "zero bytes",
    )
    assert row["finished_at"]
    assert not await ledger.read(
        find_unknown_files, "inbox", [Sighting(refused.path, refused.signature)]
    )


async def test_unknown_tells_versions_and_inboxes_apart(ledger: Ledger) -> None:
    files = [a_file(f"{i}.wav") for i in range(1200)]  # more than one query's worth
    await ledger.write(add_jobs, files[:1000])
    seen = [Sighting(file.path, file.signature) for file in files]
    assert await ledger.read(find_unknown_files, "inbox", seen) == seen[1000:]
    assert await ledger.read(find_unknown_files, "other", seen[:2]) == seen[:2]
    newer = touched(files[0])
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
async def test_names_stay_as_the_system_gives_them(ledger: Ledger, raw: bytes, shown: str) -> None:
    [job] = await claimed(ledger, a_file(raw, "content"))
    assert job.path == raw
    assert (await status(ledger, job.id))["path"] == shown
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


async def test_an_earlier_version_that_is_moved_back_is_new_once(ledger: Ledger) -> None:
    """It has its old size, times and inode: only the order of the versions tells."""
    one, two = a_file("a.wav", "one"), a_file("a.wav", "two")
    sighting = Sighting(one.path, one.signature)
    for file in (one, two):
        [job] = await claimed(ledger, file)
        await finish(ledger, job, " text")
    assert await ledger.read(find_unknown_files, "inbox", [sighting]) == [sighting]
    [added] = await ledger.write(add_jobs, [one])
    assert (added.job_id, added.status) == (3, Status.PENDING)
    assert await ledger.read(find_unknown_files, "inbox", [sighting]) == []
    assert await ledger.write(add_jobs, [one]) == [added]


async def test_a_failed_newer_version_leaves_the_earlier_one_current(ledger: Ledger) -> None:
    one, two = a_file("a.wav", "one"), a_file("a.wav", "two")
    [job] = await claimed(ledger, one)
    await finish(ledger, job, " text")
    [bad] = await claimed(ledger, two)
    await ledger.write(fail_job, bad.id, bad.token, code="not_media", error="no audio")
    sightings = [Sighting(file.path, file.signature) for file in (one, two)]
    assert await ledger.read(find_unknown_files, "inbox", sightings) == []
    assert [added.job_id for added in await ledger.write(add_jobs, [one])] == [job.id]
