"""Calls that are made at the same time share their cost, but no fault."""

import asyncio
from collections.abc import Sequence

import pytest

from speakeasyd.errors import LedgerError, OutboxUnavailable
from speakeasyd.services.shared_calls import SharedCalls


class Doubling:
    """Doubles numbers. Fails together with `faulty`, and waits for ever together with `endless`."""

    def __init__(
        self, *, faulty: Exception | None = None, endless: int | None = None, most: int = 4
    ) -> None:
        self.calls = SharedCalls(self.carry_out, most=most)
        self.groups: list[list[int]] = []
        self.has_begun = asyncio.Event()
        self._faulty, self._endless = faulty, endless

    async def carry_out(self, items: Sequence[int]) -> list[int]:
        self.groups.append(list(items))
        self.has_begun.set()
        if self._endless in items:
            await asyncio.Event().wait()
        if self._faulty and 0 in items:
            raise self._faulty
        return [2 * item for item in items]

    async def call_all(self, *items: int) -> list[int | BaseException]:
        return await asyncio.gather(
            *(self.calls.call("all", item) for item in items), return_exceptions=True
        )


async def test_calls_of_one_iteration_share_one_execution() -> None:
    doubling = Doubling()
    assert await doubling.call_all(1, 2, 3) == [2, 4, 6]
    assert await doubling.call_all(4) == [8]
    assert doubling.groups == [[1, 2, 3], [4]]


async def test_a_group_has_a_largest_size() -> None:
    doubling = Doubling(most=2)
    assert await doubling.call_all(1, 2, 3, 4, 5) == [2, 4, 6, 8, 10]
    assert doubling.groups == [[1, 2], [3, 4], [5]]


async def test_calls_of_different_kinds_do_not_meet() -> None:
    doubling = Doubling()
    calls = (doubling.calls.call(kind, number) for kind, number in (("a", 1), ("b", 2), ("a", 3)))
    assert await asyncio.gather(*calls) == [2, 4, 6]
    assert doubling.groups == [[1, 3], [2]]


@pytest.mark.parametrize("fault", [ValueError("odd"), OutboxUnavailable("a link")])
async def test_a_fault_concerns_only_its_call(fault: Exception) -> None:
    doubling = Doubling(faulty=fault)
    assert await doubling.call_all(1, 0, 3) == [2, fault, 6]
    assert doubling.groups == [[1, 0, 3], [1], [0], [3]]


async def test_a_call_without_others_is_not_repeated() -> None:
    fault = ValueError("odd")
    doubling = Doubling(faulty=fault)
    assert await doubling.call_all(0) == [fault]
    assert doubling.groups == [[0]]


async def test_a_fault_of_the_ledger_concerns_all() -> None:
    fault = LedgerError("full")
    doubling = Doubling(faulty=fault)
    assert await doubling.call_all(0, 1) == [fault, fault]
    assert doubling.groups == [[0, 1]]


async def test_the_others_of_a_cancelled_call_are_carried_out_alone() -> None:
    doubling = Doubling(endless=7)
    hung, other = (asyncio.create_task(doubling.calls.call("all", item)) for item in (7, 1))
    await doubling.has_begun.wait()
    hung.cancel()
    assert await other == 2
    assert hung.cancelled()
    assert doubling.groups == [[7, 1], [1]]
