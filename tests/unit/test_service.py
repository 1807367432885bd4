"""The loop of the services: whatever moment it is told to stop in, it does."""

import asyncio

import pytest

from speakeasyd.services.service import Service
from tests.conftest import PATIENCE_S

MOST_TURNS = 6  # of the loop, from a wake to the next `run_once`


class Counting(Service):
    """`swallows`: it takes a cancellation for something else, as libraries do now and then."""

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


async def stops(service: Service) -> None:
    """Without a second cancellation, which a time limit around `stop` would be."""
    done, _ = await asyncio.wait({asyncio.create_task(service.stop())}, timeout=PATIENCE_S)
    assert done, "it does not stop"


@pytest.mark.parametrize("turns", range(MOST_TURNS))
async def test_stopped_right_after_it_was_woken_it_stops(turns: int) -> None:
    service = Counting()
    await service.start()
    await asyncio.sleep(0.01)
    service.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    await stops(service)
    assert service.rounds <= 2


async def test_a_cancellation_that_got_lost_does_not_keep_it_alive() -> None:
    service = Counting(swallows=True)
    await service.start()
    await asyncio.sleep(0.01)
    await stops(service)
    assert service.rounds == 1


async def test_stopped_twice_or_never_started_is_fine() -> None:
    service = Counting()
    await service.stop()
    await service.start()
    await service.stop()
    await service.stop()
