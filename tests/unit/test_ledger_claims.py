"""Claims: order, ownership, and results of jobs that are given back."""

import json
import os
import sqlite3
from collections.abc import Iterator
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
    find_next_job,
    find_next_retry_time,
    release_claim,
)
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import shift_waits, store_state
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.publication import (
    JobArtifacts,
    complete_jobs,
    load_transcript,
    reserve_artifacts,
)
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, add_strike, store_results
from speakeasyd.ledger.transitions import find_lost_claims
from speakeasyd.testing import ManualClock
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    create_ledger,
    finish_job,
    read_status,
)


async def query_attempts(ledger: Ledger, job_id: int) -> list[tuple[object, object]]:
    rows = query_readonly(
        ledger.path,
        "SELECT outcome, error_code FROM attempts WHERE job_id = ? ORDER BY id",
        [job_id],
    )
    return [(row["outcome"], row["error_code"]) for row in rows]


def list_names(jobs: list[Job]) -> list[str]:
    return [job.path.decode() for job in jobs]


# --- order


async def test_the_highest_priority_goes_first_then_the_oldest(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs,
        [build_job("a"), build_job("b"), build_job("c", priority=5), build_job("d", priority=-5)],
    )
    assert list_names(await ledger.write(claim_jobs, 3)) == ["c", "a", "b"]
    assert list_names(await ledger.write(claim_jobs, 3)) == ["d"]
    assert await ledger.write(claim_jobs, 3) == []


def build_recording(path: str, seconds: float) -> NewJob:
    file = build_job(path)
    size = round(seconds * 16_000)  # bytes of an MP3
    return replace(file, signature=replace(file.signature, size=size))


async def test_short_files_go_first_but_a_long_one_waits_a_limited_time(
    ledger: Ledger, clock: ManualClock
) -> None:
    await ledger.write(
        add_jobs, [build_recording("long.mp3", 600.0), build_recording("short.mp3", 20.0)]
    )
    clock.advance(300.0)
    await ledger.write(add_jobs, [build_recording("later.mp3", 20.0)])
    clock.advance(500.0)
    await ledger.write(add_jobs, [build_recording("too late.mp3", 20.0)])
    order = list_names(await ledger.write(claim_jobs, 4))
    assert order == ["short.mp3", "later.mp3", "long.mp3", "too late.mp3"]


async def test_a_change_of_the_clock_keeps_the_order(ledger: Ledger, clock: ManualClock) -> None:
    await ledger.write(add_jobs, [build_recording("old.mp3", 20.0)])
    clock.set_wall(-2 * 86400.0)
    await ledger.write(shift_waits, -2 * 86400.0)
    clock.advance(1.0)
    await ledger.write(add_jobs, [build_recording("new.mp3", 20.0)])
    assert list_names(await ledger.write(claim_jobs, 2)) == ["old.mp3", "new.mp3"]


async def test_claims_can_be_limited_to_a_model_or_inboxes(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs,
        [
            build_job("a", model="small"),
            build_job("b", model="base"),
            build_job("c", inbox="other", model="base"),
        ],
    )
    assert (await ledger.read(find_next_job, ledger.now())).model == "small"  # type: ignore[union-attr]
    assert (await ledger.read(find_next_job, ledger.now(), inboxes=["other"])).model == "base"  # type: ignore[union-attr]
    assert await ledger.read(find_next_job, ledger.now(), inboxes=[]) is None
    assert list_names(
        await ledger.write(claim_jobs, 9, model="base", inboxes=["other", "inbox"])
    ) == [
        "b",
        "c",
    ]
    assert list_names(await ledger.write(claim_jobs, 9, inboxes=["other"])) == []
    assert list_names(await ledger.write(claim_jobs, 9, model="large")) == []


async def test_a_job_waits_until_its_time_has_come(ledger: Ledger, clock: ManualClock) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(release_claim, job.id, job.token, available_at="2026-01-01T00:01:00.000Z")
    assert await ledger.write(claim_jobs, 1) == []
    assert await ledger.read(find_next_job, ledger.now()) is None
    assert await ledger.read(find_next_retry_time, ledger.now()) == "2026-01-01T00:01:00.000Z"
    clock.advance(60)
    assert list_names(await ledger.write(claim_jobs, 1)) == ["a"]
    assert await ledger.read(find_next_retry_time, ledger.now()) is None


async def test_jobs_of_a_missing_model_wait_with_a_reason(
    ledger: Ledger, clock: ManualClock
) -> None:
    await ledger.write(
        add_jobs,
        [build_job("a", model="huge"), build_job("b", model="huge"), build_job("c", model="base")],
    )
    held = await ledger.postpone_jobs(
        "huge", available_at="2026-01-01T00:05:00.000Z", code="model_unavailable", error="404"
    )
    assert held == 2
    assert list_names(await ledger.write(claim_jobs, 9)) == ["c"]
    assert (await read_status(ledger, 1))["error_code"] == "model_unavailable"
    clock.advance(300)
    assert list_names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


# --- ownership


async def test_a_claim_has_the_fields_of_its_job(ledger: Ledger) -> None:
    file = build_job(b"sub/\xff.wav", language="de")
    [job] = await add_claimed_jobs(ledger, file)
    assert (job.path, job.signature, job.options, job.attempts) == (
        file.path,
        file.signature,
        file.options,
        1,
    )
    row = await read_status(ledger, job.id)
    assert (row["status"], row["started_at"]) == ("processing", "2026-01-01T00:00:00.000Z")


async def test_a_lost_claim_changes_nothing(ledger: Ledger) -> None:
    [old] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(release_claim, old.id, old.token, available_at=None)
    [new] = await ledger.write(claim_jobs, 1)
    before = await read_status(ledger, old.id)
    for change in (
        ledger.write(add_strike, old.id, old.token, chunk=0, start=0.0, end=1.0),
        ledger.write(release_claim, old.id, old.token, available_at=None),
        ledger.write(fail_job, old.id, old.token, code=ErrorCode.INTERNAL, error="late"),
        ledger.write(
            reserve_artifacts, [JobArtifacts(old.id, old.token, [build_artifact("a.txt")])]
        ),
        ledger.write(complete_jobs, [JobArtifacts(old.id, old.token, [build_artifact("a.txt")])]),
    ):
        with pytest.raises(ClaimLost):
            await change
    for result in (JobNoted(language="en"), build_chunk(0, " late"), Transcribed(1.0)):
        assert await ledger.write(store_results, [(old.id, old.token, result)]) == {old.id}
    assert await read_status(ledger, old.id) == before
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


# --- results of workers


async def test_chunks_are_kept_when_a_job_is_given_back(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        store_results, [(job.id, job.token, JobNoted(language="de", container_seconds=40.0))]
    )
    await ledger.write(
        store_results,
        [
            (job.id, job.token, build_chunk(0, " eins")),
            (job.id, job.token, build_chunk(2, " drei")),
        ],
    )
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert (again.done, again.language, again.attempts) == ({0, 2}, "de", 2)
    assert (await read_status(ledger, job.id))["progress"] == 0.75


def build_chunk_in_languages(index: int, **texts: str) -> Chunk:
    """Return a chunk with a segment of a second in each of these languages."""
    chunk = build_chunk(index, *texts.values())
    segments = zip(chunk.segments, texts, strict=True)
    spoken = tuple(replace(segment, language=code) for segment, code in segments)
    return replace(chunk, segments=spoken, language=spoken[-1].language)


async def test_context_for_later_chunks_is_in_one_language(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(store_results, [(job.id, job.token, JobNoted(language="de"))])
    done = [
        build_chunk_in_languages(0, de=" eins"),
        build_chunk_in_languages(1, de=" zwei", en=" two"),
        build_chunk(2, gap=True),
    ]
    await ledger.write(
        store_results, [(job.id, job.token, chunk) for chunk in [*done, build_chunk(3, " vier")]]
    )
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert again.languages == {0: "de", 1: "en", 3: "de"}  # 3: kept by an earlier version
    assert again.texts == {0: " eins", 1: " two", 3: " vier"}


async def test_the_language_of_a_job_is_that_of_most_of_its_speech(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        store_results, [(job.id, job.token, JobNoted(language="de", language_probability=0.9))]
    )
    done = [
        build_chunk_in_languages(0, de=" eins"),
        build_chunk_in_languages(1, fr=" deux", en=" two"),
        build_chunk_in_languages(2, en=" three"),
    ]
    await ledger.write(store_results, [(job.id, job.token, chunk) for chunk in done])
    await ledger.write(store_results, [(job.id, job.token, Transcribed(audio_seconds=60.0))])
    row = await read_status(ledger, job.id)
    assert (row["language"], row["language_probability"]) == ("en", None)
    languages = [
        segment.language for segment in (await ledger.read(load_transcript, job.id)).segments
    ]
    assert languages == ["de", "fr", "en", "en"]


async def test_a_job_in_one_language_keeps_what_was_found(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        store_results, [(job.id, job.token, JobNoted(language="de", language_probability=0.9))]
    )
    await ledger.write(
        store_results,
        [
            (job.id, job.token, build_chunk_in_languages(0, de=" eins")),
            (job.id, job.token, build_chunk(1, " zwei")),
        ],
    )
    await ledger.write(store_results, [(job.id, job.token, Transcribed(audio_seconds=60.0))])
    row = await read_status(ledger, job.id)
    assert (row["language"], row["language_probability"]) == ("de", 0.9)


async def test_a_chunk_is_kept_once(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    first, second = build_chunk(0, " one"), build_chunk(0, " other")
    await ledger.write(store_results, [(job.id, job.token, first), (job.id, job.token, first)])
    await ledger.write(store_results, [(job.id, job.token, second)])
    assert (await ledger.read(load_transcript, job.id)).text == "one"


async def test_chunks_of_a_lost_claim_do_not_affect_others(ledger: Ledger) -> None:
    kept, lost = await add_claimed_jobs(ledger, build_job("a"), build_job("b"))
    await ledger.cancel_jobs([lost.id])
    answer = await ledger.write(
        store_results,
        [(lost.id, lost.token, build_chunk(0, " b")), (kept.id, kept.token, build_chunk(0, " a"))],
    )
    assert answer == {lost.id}
    assert (await ledger.read(load_transcript, kept.id)).text == "a"
    assert (await ledger.read(load_transcript, lost.id)).segments == ()


async def test_progress_never_goes_back_and_ends_at_one(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    seen = []
    await ledger.write(store_results, [(job.id, job.token, JobNoted(container_seconds=20.0))])
    for index in (1, 0):
        await ledger.write(store_results, [(job.id, job.token, build_chunk(index))])
        seen.append((await read_status(ledger, job.id))["progress"])
    await ledger.write(store_results, [(job.id, job.token, Transcribed(audio_seconds=20.0))])
    seen.append((await read_status(ledger, job.id))["progress"])
    assert seen == [0.99, 0.99, 1.0]


async def test_strikes_make_suspects_until_the_chunk_is_committed(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    assert await ledger.write(add_strike, job.id, job.token, chunk=3, start=30.0, end=40.0) == 1
    assert await ledger.write(add_strike, job.id, job.token, chunk=3, start=30.0, end=40.0) == 2
    await ledger.write(release_claim, job.id, job.token, available_at=None)
    [again] = await ledger.write(claim_jobs, 1)
    assert again.suspects == (SuspectChunk(index=3, start=30.0, end=40.0, strikes=2),)
    await ledger.write(store_results, [(again.id, again.token, build_chunk(3))])
    await ledger.write(release_claim, again.id, again.token, available_at=None)
    assert (await ledger.write(claim_jobs, 1))[0].suspects == ()


async def test_a_gap_is_in_the_warning_and_in_the_transcript(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        store_results,
        [
            (job.id, job.token, build_chunk(0, " one")),
            (job.id, job.token, build_chunk(1, gap=True)),
        ],
    )
    cut = MediaWarning(WarningKind.CUT, "cut short")
    await ledger.write(
        store_results, [(job.id, job.token, Transcribed(audio_seconds=20.0, warnings=[cut]))]
    )
    row = await read_status(ledger, job.id)
    assert row["warning"] == "cut short; not transcribed: 10.0 s to 20.0 s"
    assert json.loads(row["warning_kinds"]) == ["cut", "left_out"]
    assert (await ledger.read(load_transcript, job.id)).gaps == ((10.0, 20.0),)


# --- ends of claims


async def test_each_claim_is_an_attempt_with_an_outcome(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
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
    assert await query_attempts(ledger, job.id) == [
        ("crashed", "worker_crashed"),
        ("released", "worker_crashed"),
        ("failed", "poison"),
    ]
    row = await read_status(ledger, job.id)
    assert (row["status"], row["error_code"], row["attempts"], row["crashes"]) == (
        "failed",
        "poison",
        2,
        1,
    )


async def test_an_attempt_records_its_device(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await finish_job(ledger, job, " Hello.")
    [attempt] = query_readonly(ledger.path, "SELECT model, device, outcome, ended_at FROM attempts")
    assert list(attempt.values()) == ["tiny.en", "cpu", "completed", "2026-01-01T00:00:00.000Z"]


# --- equal work


async def test_equal_jobs_share_one_transcription(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs,
        [
            build_job("a", "same"),
            build_job("b", "same"),
            build_job("c", "same", formats=("srt",), priority=-1),
        ],
    )
    [first] = await ledger.write(claim_jobs, 9)
    assert await ledger.write(claim_jobs, 9) == []
    await finish_job(ledger, first, " Hello", " world.", language="nl")
    [second] = await ledger.write(claim_jobs, 9)
    assert (second.transcribed, second.done, second.language) == (True, {0, 1}, "nl")
    assert (await ledger.read(load_transcript, second.id)).text == "Hello world."
    await ledger.write(complete_jobs, [JobArtifacts(second.id, second.token, [])])
    [third] = await ledger.write(claim_jobs, 9)
    assert third.transcribed
    row = await read_status(ledger, third.id)
    assert (row["audio_seconds"], row["model"], row["compute_seconds"]) == (60.0, "tiny.en", 0.0)
    spent = query_readonly(
        ledger.path, "SELECT job_id, sum(compute_seconds) AS seconds FROM chunks GROUP BY job_id"
    )
    assert [each["seconds"] for each in spent] == [1.0, 0.0, 0.0]


async def test_other_options_need_another_transcription(ledger: Ledger) -> None:
    await ledger.write(add_jobs, [build_job("a", "same"), build_job("b", "same", task="translate")])
    assert list_names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


async def test_equal_jobs_can_be_transcribed_separately(ledger: Ledger) -> None:
    await ledger.write(
        add_jobs, [build_job("a", "same"), build_job("b", "same")], duplicates="transcribe"
    )
    assert list_names(await ledger.write(claim_jobs, 9)) == ["a", "b"]


async def test_a_transcript_with_a_gap_is_not_copied(ledger: Ledger) -> None:
    [first] = await add_claimed_jobs(ledger, build_job("a", "same"))
    await ledger.write(store_results, [(first.id, first.token, build_chunk(0, gap=True))])
    await ledger.write(complete_jobs, [JobArtifacts(first.id, first.token, [])])
    [second] = await add_claimed_jobs(ledger, build_job("b", "same"))
    assert not second.transcribed


# --- constraints of the database


INSERT = """
    INSERT INTO jobs (batch, inbox, path_raw, path, size, mtime_ns, inode, sha256, options, requested_model, status,
                      created_at, available_at, finished_at, claim_token)
    VALUES ('b', 'inbox', x'00', '', 0, 0, 0, '', '{}', 'auto', ?, '2026', '2026', ?, ?)
"""


def build_status_columns(status: Status) -> tuple[str, str | None, str | None]:
    """Return a status with a valid finished_at and claim_token."""
    return (
        status,
        "2026" if status in TERMINAL else None,
        "token" if status is Status.PROCESSING else None,
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger as any other program opens it."""
    create_ledger(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("INSERT INTO batches (name, created_at) VALUES ('b', '2026')")
        yield connection


@pytest.mark.parametrize(("old", "new"), list(product(Status, Status)))
def test_the_database_enforces_the_transitions(
    database: sqlite3.Connection, old: Status, new: Status
) -> None:
    database.execute(INSERT, build_status_columns(old))
    try:
        database.execute(
            "UPDATE jobs SET status = ?, finished_at = ?, claim_token = ?",
            build_status_columns(new),
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
        "UPDATE jobs SET finished_at = '2026'",  # without an end
        "UPDATE jobs SET claim_token = 'mine'",  # without processing
        "UPDATE jobs SET status = 'processing'",  # without a token
        "UPDATE jobs SET progress = 1.5",
        "UPDATE jobs SET batch = 'nowhere'",
    ],
)
def test_the_database_refuses_invalid_values(database: sqlite3.Connection, change: str) -> None:
    database.execute(INSERT, build_status_columns(Status.PENDING))
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(change)


async def test_text_that_is_not_unicode_is_stored(ledger: Ledger) -> None:
    name = os.fsdecode(b"\xff.wav")
    [job] = await add_claimed_jobs(ledger, replace(build_job("a"), batch=name))
    await ledger.write(store_state, "inbox", {"missing": name})
    await ledger.write(
        fail_job, job.id, job.token, code=ErrorCode.SOURCE_UNREADABLE, error=f"cannot open {name}"
    )
    row = await read_status(ledger, job.id)
    assert (row["batch"], row["error"]) == ("\\udcff.wav", "cannot open \\udcff.wav")
    [event] = query_readonly(
        ledger.path, "SELECT data ->> 'error' AS error FROM events WHERE kind = 'job.failed'"
    )
    assert event == {"error": "cannot open ?.wav"}
