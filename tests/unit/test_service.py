"""The loop of the services ends whenever it is stopped."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.clock import SHARED_CHECK_S, find_next_check
from speakeasyd.services.service import Service
from tests.conftest import PATIENCE_S

MAX_TURNS = 6  # turns of the loop from a wake to the next `run_once`


class CountingService(Service):
    """A service that counts its rounds.

    `swallows`: it ignores a cancellation, as libraries may do.
    """

    def __init__(self, *, swallows: bool = False) -> None:
        super().__init__()
        self.rounds = 0
        self._swallows = swallows

    async def run_once(self) -> float:
        self.rounds += 1
        if self._swallows:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return 0.0
        return 60.0


async def wait_for_stop(service: Service) -> None:
    """Wait without a time limit around `stop`, which would cancel a second time."""
    done, _ = await asyncio.wait({asyncio.create_task(service.stop())}, timeout=PATIENCE_S)
    assert done, "it does not stop"


@pytest.mark.parametrize("turns", range(MAX_TURNS))
async def test_a_stop_directly_after_a_wake_ends_it(turns: int) -> None:
    service = CountingService()
    await service.start()
    await asyncio.sleep(0.01)
    service.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    await wait_for_stop(service)
    assert service.rounds <= 2


async def test_a_lost_cancellation_does_not_keep_it_running() -> None:
    service = CountingService(swallows=True)
    await service.start()
    await asyncio.sleep(0.01)
    await wait_for_stop(service)
    assert service.rounds == 1


@given(st.integers(0, 1 << 30), st.integers(int(SHARED_CHECK_S * 1024), 60 * 1024))
def test_rare_checks_are_due_together(now: int, delay: int) -> None:
    """Units of 1/1024 s, so that all sums are exact."""
    due = 1024 * find_next_check(now / 1024, delay / 1024)
    assert due % (1024 * SHARED_CHECK_S) == 0.0
    assert abs(due - now - delay) <= 1024 * SHARED_CHECK_S / 2
    assert due > now


def test_frequent_checks_are_not_delayed() -> None:
    assert find_next_check(10.25, 1.0) == 11.25


async def test_stop_can_be_repeated_and_needs_no_start() -> None:
    service = CountingService()
    await service.stop()
    await service.start()
    await service.stop()
    await service.stop()
