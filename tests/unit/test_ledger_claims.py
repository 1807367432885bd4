"""Claims: whose turn it is, whose job it is, and what stays when a job is given back."""

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.job import TERMINAL, TRANSITIONS, Job, NewJob, Status, SuspectChunk
from speakeasyd.domain.transcript import Chunk, MediaWarning, WarningKind
from speakeasyd.errors import ClaimLost, ErrorCode
from speakeasyd.ledger.claims import (
    claim_jobs,
    fail_job,
    find_lost_claims,
    find_next_job,
    find_next_retry_time,
    release_claim,
    update_claimed_job,
)
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import shift_waits, store_state
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import complete_job, load_transcript, reserve_artifacts
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import add_strike, mark_transcribed, store_chunks
from speakeasyd.testing import ManualClock
from tests.ledgers import a_chunk, a_file, an_artifact, claimed, create, finish, opened, status


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    async with opened(tmp_path / "ledger.db", clock=clock) as ledger:
        yield ledger


async def attempts(ledger: Ledger, job_id: int) -> list[tuple[object, object]]:
    rows = query_readonly(
        ledger.path,
        "SELECT outcome, error_code FROM attempts WHERE job_id = ? ORDER BY id",
        [job_id],
    )
    return [(row["outcome"], row["error_code"]) for row in rows]


def names(jobs: list[Job]) -> list[str]:
    return [job.path.decode() for job in jobs]


# --- whose turn it is


async def test_the_highest_priority_goes_first_then_the_oldest(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs, [a_file("a"), a_file("b"), a_file("c", priority=5), a_file("d", priority=-5)]
    )
    assert names(await ledger.write(claim_jobs, 3)) == ["c", "a", "b"]
    assert names(await ledger.write(claim_jobs, 3)) == ["d"]
    assert await ledger.write(claim_jobs, 3) == []


def a_recording(path: str, seconds: float) -> NewJob:
    file = a_file(path)
    size = round(seconds * 16_000)  # bytes of an MP3
    return replace(file, signature=replace(file.signature, size=size))


async def test_short_files_go_first_but_a_long_one_is_not_overtaken_forever(
    ledger: Ledger, clock: ManualClock
) -> None:
    await ledger.write(add_jobs, [a_recording("long.mp3", 600.0), a_recording("short.mp3", 20.0)])
    clock.advance(300.0)
    await ledger.write(add_jobs, [a_recording("later.mp3", 20.0)])
    clock.advance(500.0)
    await ledger.write(add_jobs, [a_recording("too late.mp3", 20.0)])
    order = names(await ledger.write(claim_jobs, 4))
    assert order == ["short.mp3", "later.mp3", "long.mp3", "too late.mp3"]


async def test_the_order_of_waiting_files_survives_a_change_of_the_clock(
    ledger: Ledger, clock: ManualClock
) -> None:
    await ledger.write(add_jobs, [a_recording("old.mp3", 20.0)])
    clock.set_wall(-2 * 86400.0)
    await ledger.write(shift_waits, -2 * 86400.0)
    clock.advance(1.0)
    await ledger.write(add_jobs, [a_recording("new.mp3", 20.0)])
    assert names(await ledger.write(claim_jobs, 2)) == ["old.mp3", "new.mp3"]


async def test_only_jobs_of_a_model_or_of_inboxes_are_claimed_if_asked_for(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs,
        [
            a_file("a", model="small"),
            a_file("b", model="base"),
            a_file("c", inbox="other", model="base"),
        ],
    )
    assert (await ledger.read(find_next_job, ledger.now())).model == "small"  # type: ignore[union-attr]
    assert (await ledger.read(find_next_job, ledger.now(), inboxes=["other"])).model == "base"  # type: ignore[union-attr]
    assert await ledger.read(find_next_job, ledger.now(), inboxes=[]) is None
    assert names(await ledger.write(claim_jobs, 9, model="base", inboxes=["other", "inbox"])) == [
        "b",
        "c",
    ]
    assert names(await ledger.write(claim_jobs, 9, inboxes=["other"])) == []
    assert names(await ledger.write(claim_jobs, 9, model="large")) == []


async def test_a_job_waits_until_its_time_has_come(ledger: Ledger, clock: ManualClock) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(release_claim, job.id, job.token, available_at="2026-01-01T00:01:00.000Z")
    assert await ledger.write(claim_jobs, 1) == []
    assert await ledger.read(find_next_job, ledger.now()) is None
    assert await ledger.read(find_next_retry_time, ledger.now()) == "2026-01-01T00:01:00.000Z"
    clock.advance(60)
    assert names(await ledger.write(claim_jobs, 1)) == ["a"]
    assert await ledger.read(find_next_retry_time, ledger.now()) is None


async def test_jobs_of_a_missing_model_wait_and_say_why(ledger: Ledger, clock: ManualClock) -> None:
    await ledger.write(
        add_jobs, [a_file("a", model="huge"), a_file("b", model="huge"), a_file("c", model="base")]
    )
    held = await ledger.postpone_jobs(
        "huge", available_at="2026-01-01T00:05:00.000Z", code="model_unavailable", error="404"
    )
    assert held == 2
    assert names(await ledger.write(claim_jobs, 9)) == ["c"]
    assert (await status(ledger, 1))["error_code"] == "model_unavailable"
    clock.advance(300)
    assert names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


# --- whose job it is


async def test_a_claim_knows_the_job(ledger: Ledger) -> None:
    file = a_file(b"sub/\xff.wav", language="de")
    [job] = await claimed(ledger, file)
    assert (job.path, job.signature, job.options, job.attempts) == (
        file.path,
        file.signature,
        file.options,
        1,
    )
    row = await status(ledger, job.id)
    assert (row["status"], row["started_at"]) == ("processing", "2026-01-01T00:00:00.000Z")


async def test_a_lost_claim_changes_nothing(ledger: Ledger) -> None:
    [old] = await claimed(ledger, a_file("a"))
    await ledger.write(release_claim, old.id, old.token, available_at=None)
    [new] = await ledger.write(claim_jobs, 1)
    before = await status(ledger, old.id)
    for change in (
        ledger.write(update_claimed_job, old.id, old.token, JobNoted(language="en")),
        ledger.write(add_strike, old.id, old.token, chunk=0, start=0.0, end=1.0),
        ledger.write(mark_transcribed, old.id, old.token, audio_seconds=1.0),
        ledger.write(release_claim, old.id, old.token, available_at=None),
        ledger.write(fail_job, old.id, old.token, code=ErrorCode.INTERNAL, error="late"),
        ledger.write(reserve_artifacts, old.id, old.token, [an_artifact("a.txt")]),
        ledger.write(complete_job, old.id, old.token, [an_artifact("a.txt")]),
    ):
        with pytest.raises(ClaimLost):
            await change
    assert await ledger.write(store_chunks, [(old.id, old.token, a_chunk(0, " late"))]) == {old.id}
    assert await status(ledger, old.id) == before
    assert (
        query_readonly(
            ledger.path,
            "SELECT 1 FROM chunks UNION SELECT 1 FROM artifacts UNION SELECT 1 FROM strikes",
        )
        == []
    )
    assert await ledger.read(find_lost_claims, [(old.id, old.token), (new.id, new.token)]) == {
        old.id
    }


# --- what workers deliver


async def test_chunks_stay_when_a_job_is_given_back(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(
        update_claimed_job, job.id, job.token, JobNoted(language="de", container_seconds=40.0)
    )
    await ledger.write(
        store_chunks,
        [(job.id, job.token, a_chunk(0, " eins")), (job.id, job.token, a_chunk(2, " drei"))],
    )
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.language, again.attempts) == ({0, 2}, "de", 2)
    assert (await status(ledger, job.id))["progress"] == 0.75


def in_languages(index: int, **texts: str) -> Chunk:
    """A chunk with a segment of a second in each of these languages."""
    chunk = a_chunk(index, *texts.values())
    segments = zip(chunk.segments, texts, strict=True)
    spoken = tuple(replace(segment, language=code) for segment, code in segments)
    return replace(chunk, segments=spoken, language=spoken[-1].language)


async def test_what_later_chunks_lean_on_is_in_one_language(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(update_claimed_job, job.id, job.token, JobNoted(language="de"))
    done = [
        in_languages(0, de=" eins"),
        in_languages(1, de=" zwei", en=" two"),
        a_chunk(2, gap=True),
    ]
    await ledger.write(
        store_chunks, [(job.id, job.token, chunk) for chunk in [*done, a_chunk(3, " vier")]]
    )
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert again.languages == {0: "de", 1: "en", 3: "de"}  # 3: kept by an earlier version
    assert again.said == {0: " eins", 1: " two", 3: " vier"}


async def test_the_language_of_a_job_is_that_of_most_of_its_speech(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(
        update_claimed_job, job.id, job.token, JobNoted(language="de", language_probability=0.9)
    )
    done = [
        in_languages(0, de=" eins"),
        in_languages(1, fr=" deux", en=" two"),
        in_languages(2, en=" three"),
    ]
    await ledger.write(store_chunks, [(job.id, job.token, chunk) for chunk in done])
    await ledger.write(mark_transcribed, job.id, job.token, audio_seconds=60.0)
    row = await status(ledger, job.id)
    assert (row["language"], row["language_probability"]) == ("en", None)
    languages = [
        segment.language for segment in (await ledger.read(load_transcript, job.id)).segments
    ]
    assert languages == ["de", "fr", "en", "en"]


async def test_a_job_in_one_language_keeps_what_was_found(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(
        update_claimed_job, job.id, job.token, JobNoted(language="de", language_probability=0.9)
    )
    await ledger.write(
        store_chunks,
        [
            (job.id, job.token, in_languages(0, de=" eins")),
            (job.id, job.token, a_chunk(1, " zwei")),
        ],
    )
    await ledger.write(mark_transcribed, job.id, job.token, audio_seconds=60.0)
    row = await status(ledger, job.id)
    assert (row["language"], row["language_probability"]) == ("de", 0.9)


async def test_a_chunk_is_kept_once(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    first, second = a_chunk(0, " one"), a_chunk(0, " other")
    await ledger.write(store_chunks, [(job.id, job.token, first), (job.id, job.token, first)])
    await ledger.write(store_chunks, [(job.id, job.token, second)])
    assert (await ledger.read(load_transcript, job.id)).text == "one"


async def test_chunks_of_a_lost_claim_do_not_hold_up_the_others(ledger: Ledger) -> None:
    kept, lost = await claimed(ledger, a_file("a"), a_file("b"))
    await ledger.cancel_jobs([lost.id])
    answer = await ledger.write(
        store_chunks,
        [(lost.id, lost.token, a_chunk(0, " b")), (kept.id, kept.token, a_chunk(0, " a"))],
    )
    assert answer == {lost.id}
    assert (await ledger.read(load_transcript, kept.id)).text == "a"
    assert (await ledger.read(load_transcript, lost.id)).segments == ()


async def test_progress_never_goes_back_and_ends_at_one(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    seen = []
    await ledger.write(update_claimed_job, job.id, job.token, JobNoted(container_seconds=20.0))
    for index in (1, 0):
        await ledger.write(store_chunks, [(job.id, job.token, a_chunk(index))])
        seen.append((await status(ledger, job.id))["progress"])
    await ledger.write(mark_transcribed, job.id, job.token, audio_seconds=20.0)
    seen.append((await status(ledger, job.id))["progress"])
    assert seen == [0.99, 0.99, 1.0]


async def test_strikes_make_suspects_until_the_chunk_is_in(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    assert await ledger.write(add_strike, job.id, job.token, chunk=3, start=30.0, end=40.0) == 1
    assert await ledger.write(add_strike, job.id, job.token, chunk=3, start=30.0, end=40.0) == 2
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert again.suspects == (SuspectChunk(index=3, start=30.0, end=40.0, strikes=2),)
    await ledger.write(store_chunks, [(again.id, again.token, a_chunk(3))])
    await ledger.write(release_claim, again.id, again.token, available_at=None)
    assert (await ledger.write(claim_jobs, 1))[0].suspects == ()


async def test_a_gap_is_told_in_the_warning_and_in_the_transcript(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await ledger.write(
        store_chunks,
        [(job.id, job.token, a_chunk(0, " one")), (job.id, job.token, a_chunk(1, gap=True))],
    )
    cut = MediaWarning(WarningKind.CUT, "cut short")
    await ledger.write(mark_transcribed, job.id, job.token, audio_seconds=20.0, warnings=[cut])
    row = await status(ledger, job.id)
    assert row["warning"] == "cut short; not transcribed: 10.0 s to 20.0 s"
    assert json.loads(row["warning_kinds"]) == ["cut", "left_out"]
    assert (await ledger.read(load_transcript, job.id)).gaps == ((10.0, 20.0),)


# --- how a claim ends


async def test_each_claim_is_an_attempt_with_an_outcome(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    for crash, counts in ((True, True), (False, False)):
        await ledger.write(
            release_claim,
            job.id,
            job.token,
            available_at=None,
            error_code="worker_crashed",
            crash=crash,
            counts=counts,
        )
        [job] = await ledger.write(claim_jobs, 1)
    assert (job.crashes, job.attempts) == (1, 2)
    await ledger.write(
        fail_job, job.id, job.token, code=ErrorCode.POISON, error="what is heard takes workers down"
    )
    assert await attempts(ledger, job.id) == [
        ("crashed", "worker_crashed"),
        ("released", "worker_crashed"),
        ("failed", "poison"),
    ]
    row = await status(ledger, job.id)
    assert (row["status"], row["error_code"], row["attempts"], row["crashes"]) == (
        "failed",
        "poison",
        2,
        1,
    )


async def test_an_attempt_says_where_it_ran(ledger: Ledger) -> None:
    [job] = await claimed(ledger, a_file("a"))
    await finish(ledger, job, " Hello.")
    [attempt] = query_readonly(ledger.path, "SELECT model, device, outcome, ended_at FROM attempts")
    assert list(attempt.values()) == ["tiny.en", "cpu", "completed", "2026-01-01T00:00:00.000Z"]


# --- the same work once


async def test_of_twins_one_is_done_and_lends_to_the_others(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs,
        [
            a_file("a", "same"),
            a_file("b", "same"),
            a_file("c", "same", formats=("srt",), priority=-1),
        ],
    )
    [first] = await ledger.write(claim_jobs, 9)
    assert await ledger.write(claim_jobs, 9) == []
    await finish(ledger, first, " Hello", " world.", language="nl")
    [second] = await ledger.write(claim_jobs, 9)
    assert (second.transcribed, second.done, second.language) == (True, {0, 1}, "nl")
    assert (await ledger.read(load_transcript, second.id)).text == "Hello world."
    await ledger.write(complete_job, second.id, second.token, [])
    [third] = await ledger.write(claim_jobs, 9)
    assert third.transcribed
    row = await status(ledger, third.id)
    assert (row["audio_seconds"], row["model"], row["compute_seconds"]) == (60.0, "tiny.en", 0.0)
    spent = query_readonly(
        ledger.path, "SELECT job_id, sum(compute_seconds) AS seconds FROM chunks GROUP BY job_id"
    )
    assert [each["seconds"] for each in spent] == [1.0, 0.0, 0.0]


async def test_other_options_are_other_work(ledger: Ledger) -> None:
    await ledger.write(add_jobs, [a_file("a", "same"), a_file("b", "same", task="translate")])
    assert names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


async def test_twins_that_shall_each_be_transcribed_do_not_wait(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs, [a_file("a", "same"), a_file("b", "same")], duplicates="transcribe"
    )
    assert names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


async def test_a_transcript_with_a_gap_is_not_lent(ledger: Ledger) -> None:
    [first] = await claimed(ledger, a_file("a", "same"))
    await ledger.write(store_chunks, [(first.id, first.token, a_chunk(0, gap=True))])
    await ledger.write(complete_job, first.id, first.token, [])
    [second] = await claimed(ledger, a_file("b", "same"))
    assert not second.transcribed


# --- what no program may do


INSERT = """
    INSERT INTO jobs (batch, inbox, path_raw, path, size, mtime_ns, inode, sha256, options, requested_model, status,
                      created_at, available_at, finished_at, claim_token)
    VALUES ('b', 'inbox', x'00', '', 0, 0, 0, '', '{}', 'auto', ?, '2026', '2026', ?, ?)
"""


def fitting(status: Status) -> tuple[str, str | None, str | None]:
    """A status with the finished_at and the claim_token that go with it."""
    return (
        status,
        "2026" if status in TERMINAL else None,
        "token" if status is Status.PROCESSING else None,
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger as any other program may open it."""
    create(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("INSERT INTO batches (name, created_at) VALUES ('b', '2026')")
        yield connection


@pytest.mark.parametrize(("old", "new"), list(product(Status, Status)))
def test_the_database_holds_every_program_to_the_transitions(
    database: sqlite3.Connection, old: Status, new: Status
) -> None:
    database.execute(INSERT, fitting(old))
    try:
        database.execute(
            "UPDATE jobs SET status = ?, finished_at = ?, claim_token = ?", fitting(new)
        )
        allowed = True
    except sqlite3.IntegrityError:
        allowed = False
    assert allowed == (old == new or new in TRANSITIONS[old])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE jobs SET status = 'done'",
        "UPDATE jobs SET status = 'failed'",  # without finished_at
        "UPDATE jobs SET finished_at = '2026'",  # without having ended
        "UPDATE jobs SET claim_token = 'mine'",  # without processing
        "UPDATE jobs SET status = 'processing'",  # without a token
        "UPDATE jobs SET progress = 1.5",
        "UPDATE jobs SET batch = 'nowhere'",
    ],
)
def test_the_database_refuses_nonsense(database: sqlite3.Connection, change: str) -> None:
    database.execute(INSERT, fitting(Status.PENDING))
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(change)


async def test_words_that_are_no_unicode_do_not_stop_the_ledger(ledger: Ledger) -> None:
    name = os.fsdecode(b"\xff.wav")
    [job] = await claimed(ledger, replace(a_file("a"), batch=name))
    await ledger.write(store_state, "inbox", {"missing": name})
    await ledger.write(
        fail_job, job.id, job.token, code=ErrorCode.SOURCE_UNREADABLE, error=f"cannot open {name}"
    )
    row = await status(ledger, job.id)
    assert (row["batch"], row["error"]) == ("\\udcff.wav", "cannot open \\udcff.wav")
    [event] = query_readonly(
        ledger.path, "SELECT data ->> 'error' AS error FROM events WHERE kind = 'job.failed'"
    )
    assert event == {"error": "cannot open ?.wav"}
