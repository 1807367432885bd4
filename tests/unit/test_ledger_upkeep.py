"""Maintenance of the ledger: after a restart, and of old rows."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.fault import FaultKind, Phase
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.domain.job import Sighting
from speakeasyd.domain.notifications import Notification, NotificationKind
from speakeasyd.ledger.claims import claim_jobs, fail_job, release_claim
from speakeasyd.ledger.deliveries import enqueue_deliveries
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import (
    close_abandoned_incidents,
    close_incident,
    open_incident,
    release_stale_claims,
    store_state,
)
from speakeasyd.ledger.new_jobs import add_jobs, find_unknown_files
from speakeasyd.ledger.publication import find_taken_names
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, store_results
from speakeasyd.ledger.search import search_text
from speakeasyd.testing import ManualClock
from tests.ledgers import (
    add_claimed_jobs,
    build_artifact,
    build_chunk,
    build_job,
    finish_job,
    open_ledger,
    read_status,
    with_newer_time,
)

DAY_S = 86400.0


async def test_a_new_daemon_releases_the_claims_of_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_ledger(path, boot_id="first") as ledger:
        half, whole, _ = await add_claimed_jobs(
            ledger, build_job("half"), build_job("whole"), build_job("untouched")
        )
        await ledger.write(store_results, [(half.id, half.token, build_chunk(0, " one"))])
        await ledger.write(store_results, [(whole.id, whole.token, build_chunk(0, " all"))])
        await ledger.write(
            store_results, [(whole.id, whole.token, Transcribed(audio_seconds=10.0))]
        )
        assert await ledger.write(release_stale_claims) == type(
            await ledger.write(release_stale_claims)
        )(jobs=(), chunks=0)  # its own claims are kept
    async with open_ledger(path, boot_id="second") as ledger:
        recovered = await ledger.write(release_stale_claims)
        assert (recovered.jobs, recovered.chunks) == ((1, 2, 3), 2)
        again = {job.path: job for job in await ledger.write(claim_jobs, 3)}
        assert again[b"half"].done == {0}
        assert again[b"whole"].transcribed
        assert {
            row["outcome"] for row in query_readonly(ledger.path, "SELECT outcome FROM attempts")
        } == {
            "interrupted",
            None,
        }


async def test_an_incident_is_recorded_from_beginning_to_end(
    ledger: Ledger, clock: ManualClock
) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a.wav"))
    incident = await ledger.write(
        open_incident,
        Incident(
            kind=FaultKind.CONTEXT_LOST,
            phase="generate",
            device="cuda:0",
            worker="w1",
            summary="the CUDA context is lost",
            detail="CUDA error: an illegal memory access was encountered",
            action=IncidentAction.START_WORKER,
            job_id=job.id,
            chunk=3,
        ),
    )
    clock.advance(4)
    await ledger.write(close_incident, incident, cost_seconds=4.0)
    [row] = query_readonly(ledger.path, "SELECT * FROM incidents")
    assert row["incident_id"] == incident
    assert (row["kind"], row["job_id"], row["path"], row["chunk"]) == (
        "context_lost",
        job.id,
        "a.wav",
        3,
    )
    assert row["error"] == f"{row['summary']}: {row['detail']}"
    assert row["detail"] == "CUDA error: an illegal memory access was encountered"
    assert (row["action"], row["action_kind"]) == ("a new worker is started", "start_worker")
    assert (row["resolved_at"], row["cost_seconds"]) == ("2026-01-01T00:00:04.000Z", 4.0)


async def test_the_incidents_of_a_killed_daemon_end_when_the_next_one_starts(
    ledger: Ledger, clock: ManualClock
) -> None:
    incident = Incident(
        kind=FaultKind.CONTEXT_LOST,
        phase=Phase.GENERATE,
        device="cuda:0",
        worker="w1",
        summary="the CUDA context is lost",
        action=IncidentAction.START_WORKER,
    )
    over = await ledger.write(open_incident, incident)
    await ledger.write(close_incident, over, cost_seconds=4.0)
    await ledger.write(open_incident, incident)
    clock.advance(9)
    await ledger.write(close_abandoned_incidents)
    rows = query_readonly(ledger.path, "SELECT resolved_at, cost_seconds FROM incidents")
    assert [tuple(row.values()) for row in rows] == [
        ("2026-01-01T00:00:00.000Z", 4.0),
        ("2026-01-01T00:00:09.000Z", None),
    ]


async def test_the_latest_state_is_read(ledger: Ledger, clock: ManualClock) -> None:
    await ledger.write(store_state, "pauses", {"outbox": "full"})
    clock.advance(1)
    await ledger.write(store_state, "pauses", {})
    assert query_readonly(ledger.path, "SELECT * FROM state") == [
        {"key": "pauses", "value": "{}", "updated_at": "2026-01-01T00:00:01.000Z"}
    ]


async def test_old_jobs_are_pruned_with_all_their_rows(ledger: Ledger, clock: ManualClock) -> None:
    old, running = await add_claimed_jobs(ledger, build_job("old"), build_job("running"))
    await finish_job(ledger, old, " Hello.")
    [skipped] = await ledger.write(add_jobs, [with_newer_time(build_job("old"))])
    clock.advance(DAY_S)
    [young] = await add_claimed_jobs(ledger, build_job("young"))
    await finish_job(ledger, young, " Hello.")
    assert (
        await ledger.prune_history(
            jobs_before="2026-01-01T12:00:00.000Z", events_before="2026-01-01T12:00:00.000Z"
        )
        == 2
    )
    assert {
        row["job_id"] for row in query_readonly(ledger.path, "SELECT job_id FROM job_status")
    } == {
        running.id,
        young.id,
    }
    assert skipped.job_id not in {running.id, young.id}
    assert [hit.job_id for hit in await ledger.searches.read(search_text, "hello")] == [young.id]
    [batch] = query_readonly(
        ledger.path, "SELECT total, completed, audio_seconds FROM batch_progress"
    )
    assert batch == {"total": 2, "completed": 1, "audio_seconds": 60.0}
    assert {row["at"][:10] for row in query_readonly(ledger.path, "SELECT at FROM events")} == {
        "2026-01-02"
    }  # type: ignore[index]


async def test_a_file_whose_job_was_pruned_is_not_transcribed_again(
    ledger: Ledger, clock: ManualClock
) -> None:
    file = build_job("a.wav")
    [job] = await add_claimed_jobs(ledger, file)
    await finish_job(ledger, job, " Hello.")
    assert await ledger.prune_history(jobs_before="2027", events_before="2026") == 1
    assert (
        await ledger.read(find_unknown_files, "inbox", [Sighting(file.path, file.signature)]) == []
    )
    assert [each.status for each in await ledger.write(add_jobs, [with_newer_time(file)])] == [
        "skipped"
    ]
    assert [
        each.status for each in await ledger.write(add_jobs, [build_job("a.wav", "other")])
    ] == ["pending"]
    assert await ledger.read(
        find_taken_names, "/outbox", [build_artifact(f"{job.id}.txt").path], job_id=99
    )


async def test_the_id_of_a_pruned_job_is_not_reused(ledger: Ledger) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await finish_job(ledger, job)
    await ledger.prune_history(jobs_before="2027", events_before="2026")
    [added] = await ledger.write(add_jobs, [build_job("b")])
    assert added.job_id > job.id


async def test_many_jobs_are_pruned_in_short_steps(ledger: Ledger) -> None:
    added = await ledger.write(add_jobs, [build_job(str(i)) for i in range(1100)])
    assert len(await ledger.cancel_jobs([each.job_id for each in added])) == 1100
    assert await ledger.prune_history(jobs_before="2027", events_before="2027") == 1100
    assert query_readonly(ledger.path, "SELECT * FROM batch_progress") == []


Step = st.tuples(
    st.sampled_from(["add", "claim", "finish", "fail", "release", "cancel", "retry", "prune"]),
    st.integers(0, 5),
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(Step, max_size=25))
async def test_the_counts_of_a_batch_are_those_of_its_jobs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    async with open_ledger(tmp_path_factory.mktemp("counts") / "ledger.db") as ledger:
        held = []
        for verb, number in steps:
            match verb:
                case "add":
                    await ledger.write(add_jobs, [build_job(f"{number}", f"content {number}")])
                case "claim":
                    held += await ledger.write(claim_jobs, number)
                case "finish" if held:
                    await finish_job(ledger, held.pop(), " Hello.")
                case "fail" if held:
                    job = held.pop()
                    await ledger.write(fail_job, job.id, job.token, code="internal", error="")
                case "release" if held:
                    job = held.pop()
                    await ledger.write(release_claim, job.id, job.token, available_at=None)
                case "cancel":
                    await ledger.cancel_jobs([job.id for job in held[:1]])
                    del held[:1]
                case "retry":
                    await ledger.retry_jobs([number])
                case "prune" if number == 0:
                    await ledger.prune_history(jobs_before="2027", events_before="2026")
        await compare_counts(ledger)


async def test_deliveries_are_pruned_with_their_events(ledger: Ledger) -> None:
    await ledger.write(
        enqueue_deliveries,
        [("webhook", Notification(NotificationKind.JOB_FAILED, "2026", 1, {}))],
        seq=1,
        until="2026",
    )
    await ledger.prune_history(jobs_before=None, events_before="2025")
    assert query_readonly(ledger.path, "SELECT target FROM deliveries") == [{"target": "webhook"}]
    await ledger.prune_history(jobs_before=None, events_before="2027")
    assert query_readonly(ledger.path, "SELECT target FROM deliveries") == []


async def compare_counts(ledger: Ledger) -> None:
    [real] = query_readonly(
        ledger.path,
        """
        SELECT count(*) AS total, sum(status = 'pending') AS pending, sum(status = 'processing') AS processing,
               sum(status = 'completed') AS completed, sum(status = 'failed') AS failed,
               sum(status = 'cancelled') AS cancelled, sum(status = 'skipped') AS skipped,
               total(audio_seconds) AS audio_seconds
        FROM jobs
    """,
    )
    shown = query_readonly(ledger.path, "SELECT * FROM batch_progress")
    expected = [real] if real["total"] else []
    assert [{name: row[name] for name in real} for row in shown] == expected
    for row in shown:
        assert 0 <= row["progress"] <= 1  # type: ignore[operator]


async def test_the_progress_of_a_batch_counts_ended_and_current_jobs(
    ledger: Ledger,
) -> None:
    one, two = await add_claimed_jobs(ledger, build_job("a"), build_job("b"))
    await ledger.write(add_jobs, [build_job("c"), build_job("d")])
    await ledger.write(fail_job, one.id, one.token, code="internal", error="")
    await ledger.write(store_results, [(two.id, two.token, JobNoted(container_seconds=20.0))])
    await ledger.write(store_results, [(two.id, two.token, build_chunk(0))])
    [batch] = query_readonly(ledger.path, "SELECT progress FROM batch_progress")
    assert batch["progress"] == pytest.approx((1 + 0.5) / 4)
    assert (await read_status(ledger, two.id))["progress"] == 0.5
