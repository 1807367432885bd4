"""Jumps of the wall clock change no waits."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.clock import JUMP_S, JumpDetector, format_utc
from speakeasyd.config import RecoverySettings
from speakeasyd.domain.notifications import Notification, NotificationKind
from speakeasyd.domain.retry import HOLD_S
from speakeasyd.ledger.claims import claim_jobs, release_claim
from speakeasyd.ledger.deliveries import (
    enqueue_deliveries,
    find_next_delivery,
    mark_delivery_failed,
)
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import LedgerLock, find_holder
from speakeasyd.ledger.maintenance import release_stale_claims, shift_waits, shorten_waits
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.testing import ManualClock
from tests.ledgers import add_claimed_jobs, build_job, finish_job, open_ledger, read_status

HOUR, DAY = 3600.0, 86400.0
JUMPS = (-2 * DAY, -2 * HOUR, 2 * HOUR, 2 * DAY)
WAITS = RecoverySettings(retry_s=5, retry_max_s=900)


def format_time_after(clock: ManualClock, seconds: float) -> str:
    return format_utc(clock.utc() + timedelta(seconds=seconds))


@pytest.mark.parametrize("jump", JUMPS)
async def test_jobs_without_a_wait_start_immediately(
    ledger: Ledger, clock: ManualClock, jump: float
) -> None:
    running, done = await add_claimed_jobs(ledger, build_job("running"), build_job("done"))
    await finish_job(ledger, done, " text")
    await ledger.write(add_jobs, [build_job("new")])
    clock.set_wall(jump)
    await ledger.write(release_claim, running.id, running.token, available_at=None)
    assert await ledger.retry_jobs([done.id]) == [done.id]
    assert len(await ledger.write(claim_jobs, 10)) == 3


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_wait_keeps_its_length(ledger: Ledger, clock: ManualClock, jump: float) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        release_claim, job.id, job.token, available_at=format_time_after(clock, 60), crash=True
    )
    jumps = JumpDetector(clock)
    clock.set_wall(jump)
    clock.advance(20)
    measured = jumps.measure()
    assert measured == pytest.approx(jump)
    await ledger.write(shift_waits, measured)
    jumps.accept(measured)
    assert jumps.measure() == 0.0
    clock.advance(30)
    assert await ledger.write(claim_jobs, 1) == []
    clock.advance(11)
    assert len(await ledger.write(claim_jobs, 1)) == 1


@pytest.mark.parametrize("jump", JUMPS)
async def test_after_a_restart_no_wait_is_longer_than_its_backoff(
    ledger: Ledger, clock: ManualClock, jump: float
) -> None:
    crashed, held = await add_claimed_jobs(
        ledger, build_job("crashed"), build_job("held", model="tiny")
    )
    await ledger.write(
        release_claim,
        crashed.id,
        crashed.token,
        available_at=format_time_after(clock, 4),
        crash=True,
    )
    await ledger.write(release_claim, held.id, held.token, available_at=None)
    await ledger.postpone_jobs(
        "tiny",
        available_at=format_time_after(clock, HOLD_S),
        code="model_unavailable",
        error="no model",
    )
    clock.set_wall(jump)
    await ledger.write(release_stale_claims)
    await ledger.write(shorten_waits, WAITS, delivery_wait_s=3600, final_wait_s=3600)
    clock.advance(WAITS.retry_s)
    assert crashed.id in [job.id for job in await ledger.write(claim_jobs, 1)]
    clock.advance(HOLD_S)
    jobs = await ledger.write(claim_jobs, 10)
    assert (
        held.id in {job.id for job in jobs}
        or (await read_status(ledger, held.id))["status"] == "processing"
    )


async def test_jobs_of_an_earlier_version_without_a_wait_start_immediately(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "ledger.db"
    async with open_ledger(path, clock=clock) as ledger:
        await ledger.write(add_jobs, [build_job("a")])
        await ledger._writer.run_operation(
            lambda tx: tx.connection.exec_driver_sql("UPDATE jobs SET available_at = created_at")
        )
    clock.set_wall(-2 * DAY)
    async with open_ledger(path, clock=clock) as ledger:
        await ledger.write(release_stale_claims)
        await ledger.write(shorten_waits, WAITS, delivery_wait_s=3600, final_wait_s=3600)
        assert len(await ledger.write(claim_jobs, 1)) == 1


async def test_a_manual_retry_needs_no_wait(ledger: Ledger, clock: ManualClock) -> None:
    [job] = await add_claimed_jobs(ledger, build_job("a"))
    await ledger.write(
        release_claim, job.id, job.token, available_at=format_time_after(clock, 900), crash=True
    )
    assert await ledger.write(claim_jobs, 1) == []
    assert await ledger.retry_jobs([job.id]) == [job.id]
    assert await ledger.retry_jobs([job.id]) == []
    assert len(await ledger.write(claim_jobs, 1)) == 1


async def test_jobs_without_a_wait_show_a_time(ledger: Ledger) -> None:
    [job] = await ledger.write(add_jobs, [build_job("a")])
    row = await read_status(ledger, job.job_id)
    assert row["available_at"] == row["created_at"]


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_delivery_keeps_its_wait(ledger: Ledger, clock: ManualClock, jump: float) -> None:
    failed = Notification(NotificationKind.JOB_FAILED, format_utc(clock.utc()), 1, {})
    await ledger.write(enqueue_deliveries, [("hook", failed)], seq=1, until=format_utc(clock.utc()))
    first = await ledger.read(find_next_delivery, "hook")
    assert first
    await ledger.write(
        mark_delivery_failed, first, "hook", error="down", again_at=format_time_after(clock, 60)
    )
    clock.set_wall(jump)
    await ledger.write(shift_waits, jump)
    again = await ledger.read(find_next_delivery, "hook")
    assert again
    assert (again.available_at - clock.utc()).total_seconds() == pytest.approx(60)


@given(st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(0.1, 5.0)), max_size=50))
def test_slow_adjustment_is_not_a_jump(steps: list[tuple[float, float]]) -> None:
    clock = ManualClock()
    jumps = JumpDetector(clock)
    for adjusted, passed in steps:
        clock.advance(passed)
        clock.set_wall(adjusted)
        assert jumps.measure() == 0.0


@given(st.floats(JUMP_S + 0.01, 1e7), st.booleans())
def test_a_jump_is_measured_until_it_is_accepted(size: float, back: bool) -> None:
    clock = ManualClock()
    jumps = JumpDetector(clock)
    jump = -size if back else size
    clock.set_wall(jump)
    assert jumps.measure() == pytest.approx(jump, abs=0.01)
    assert jumps.measure() == pytest.approx(jump, abs=0.01)
    jumps.accept(jumps.measure())
    assert jumps.measure() == 0.0


def test_uptime_does_not_depend_on_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LedgerLock(tmp_path):
        monkeypatch.setattr("time.time", lambda: 0.0)
        up = find_holder(tmp_path)
        assert up
        assert 0.0 <= up.up_s < 60.0
