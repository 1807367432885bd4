"""Calls that share their cost: those made at the same time are carried out together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from speakeasyd.errors import LedgerError, SpeakeasyError

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Group(Generic[T, R]):
    items: list[T]
    task: asyncio.Task[Sequence[R]] = field(init=False)


class SharedCalls(Generic[T, R]):
    """Carries out the calls of one iteration of the loop together.

    If that fails, each call is carried out alone: no item concerns another one for long.
    """

    def __init__(
        self, carry_out: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, most: int
    ) -> None:
        """`carry_out`: returns a result for each item. `most`: items of one call of it."""
        self._carry_out = carry_out
        self._most = most
        self._open: dict[str, _Group[T, R]] = {}  # the groups that may still grow, by kind

    async def call(self, kind: str, item: T) -> R:
        """Carry out the call for an item, together with others of its kind. Returns its result.

        Raises what `carry_out` raises. Cancelling it cancels the calls that it shares, and the
        others are then carried out alone.
        """
        group = self._join_group(kind, item)
        number = len(group.items) - 1
        try:
            await asyncio.wait([group.task])
        except asyncio.CancelledError:
            group.task.cancel()
            raise
        if not group.task.cancelled():
            error = group.task.exception()
            if error is None:
                return group.task.result()[number]
            if len(group.items) == 1 or isinstance(error, LedgerError):
                raise error
        [result] = await self._carry_out([item])
        return result

    def _join_group(self, kind: str, item: T) -> _Group[T, R]:
        group = self._open.get(kind)
        if group and len(group.items) < self._most:
            group.items.append(item)
        else:
            group = self._open[kind] = _Group([item])
            group.task = asyncio.create_task(self._carry_out_group(kind, group))
            # retrieves an error for which all callers have stopped waiting
            group.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return group

    async def _carry_out_group(self, kind: str, group: _Group[T, R]) -> Sequence[R]:
        """It begins in the next iteration of the loop; then the group is closed."""
        if self._open.get(kind) is group:
            del self._open[kind]
        try:
            return await self._carry_out(group.items)
        except Exception as error:
            if len(group.items) > 1 and not isinstance(error, SpeakeasyError):
                log.exception("%d calls failed together; each is tried alone", len(group.items))
            raise
