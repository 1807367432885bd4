"""The outbox of each inbox, and the pause of its queue while the outbox cannot be written."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from speakeasyd.config import InboxSettings
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.errors import OutboxUnavailable
from speakeasyd.outbox.publish import Outbox
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.thread_group import ThreadGroup

CHECK_S = 5.0  # seconds between two checks of an outbox that is full or missing
ANSWER_S = 60.0  # seconds for an outbox to answer, all files of a call included
WRITERS = 4  # calls of one outbox at the same time

P = ParamSpec("P")
T = TypeVar("T")


class Outboxes(Service):
    """The outboxes of all inboxes.

    Only an outbox as a whole pauses a queue; a folder in it that refuses affects only its jobs.
    """

    def __init__(self, *, inboxes: Sequence[InboxSettings], pauses: Pauses) -> None:
        super().__init__()
        self._outboxes = {inbox.name: Outbox(inbox.outbox) for inbox in inboxes}
        self._threads = {
            inbox.name: ThreadGroup(f"outbox {inbox.name}", size=WRITERS) for inbox in inboxes
        }
        self._pauses = pauses

    def __getitem__(self, inbox: str) -> Outbox:
        return self._outboxes[inbox]

    async def call_outbox(
        self, inbox: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a blocking call in the outbox's own threads.

        Raises OutboxUnavailable if the folder does not answer.
        """
        try:
            return await self._threads[inbox].run_within(ANSWER_S, function, *args, **kwargs)
        except TimeoutError as error:
            raise OutboxUnavailable(
                f"the outbox {self._outboxes[inbox].path} does not answer"
            ) from error

    async def prepare_folders(self) -> None:
        """Create the outboxes and remove old drafts. Pauses the queue of an outbox that fails."""
        await asyncio.gather(
            *(self._prepare_outbox(inbox, outbox) for inbox, outbox in self._outboxes.items())
        )

    async def _prepare_outbox(self, inbox: str, outbox: Outbox) -> None:
        try:
            await self.call_outbox(inbox, outbox.prepare_folder)
            await self.call_outbox(inbox, outbox.probe_writable)
        except OutboxUnavailable as error:
            await self._pauses.begin_pause(_pause_cause(inbox), str(error))

    def is_paused(self, inbox: str) -> bool:
        return _pause_cause(inbox) in self._pauses

    async def run_once(self) -> float:
        for inbox in self._outboxes:
            if self.is_paused(inbox) and not await self._find_problem(inbox):
                await self._pauses.end_pause(_pause_cause(inbox))
        return CHECK_S

    async def check_writable(self, inbox: str) -> bool:
        """Return whether files can be written to an outbox now. If not, its queue is paused."""
        if problem := await self._find_problem(inbox):
            await self._pauses.begin_pause(_pause_cause(inbox), problem)
        return not problem

    async def _find_problem(self, inbox: str) -> str:
        """Return why an outbox cannot be written; empty if it can."""
        try:
            await self.call_outbox(inbox, self._outboxes[inbox].probe_writable)
        except OutboxUnavailable as error:
            return str(error)
        return ""


def _pause_cause(inbox: str) -> PauseCause:
    return PauseCause(PauseKind.OUTBOX, inbox)
