"""Runs until the inboxes are drained: decides when nothing more can be done, and accounts for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from speakeasyd.clock import Clock
from speakeasyd.config import Settings
from speakeasyd.domain.drained import Drained, UnfinishedFile
from speakeasyd.domain.pausing import DEVICE_PAUSE, LEDGER_PAUSE, PauseCause, PauseKind
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import Row
from speakeasyd.ledger.run_account import (
    RunAccount,
    count_unfinished_jobs,
    find_unfinished_inboxes,
    load_run_account,
)
from speakeasyd.services.dispatcher import Dispatcher
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.intake import Intake
from speakeasyd.services.pauses import Pauses

CHECK_S = 0.05  # seconds between checks whether everything is done
BUSY_CHECK_S = 0.25  # the same at most, while jobs are claimed
STALL_CHECKS = 4  # such checks before each one whether all work waits

# Seconds without progress, with two checks of an outbox, after which `wait` gives up
STALLED_S = 12.0
DEVICE_STALLED_S = 120.0  # Seconds, the same while a device is probed: it often recovers


@dataclass(frozen=True, slots=True)
class Hindrances:
    """What kept work from being done when the run ended."""

    pauses: Mapping[PauseCause, str]
    failing: Sequence[str]  # errors of services that block files


class Draining:
    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        pool: WorkerPool,
        dispatcher: Dispatcher,
        intake: Intake,
        pauses: Pauses,
        failures: ServiceFailures,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._pool = pool
        self._dispatcher = dispatcher
        self._intake = intake
        self._pauses = pauses
        self._failures = failures
        self._clock = clock

    async def wait(self, stop_requested: asyncio.Event) -> None:
        """Wait until all is done, a stop is requested, or no progress was possible for long."""
        stalled_since: float | None = None
        while not await self._ends_soon(stop_requested):
            now = self._clock.monotonic()
            stalled_since = (stalled_since or now) if await self._is_stalled() else None
            limit_s = DEVICE_STALLED_S if DEVICE_PAUSE in self._pauses else STALLED_S
            if stalled_since is not None and now - stalled_since >= limit_s:
                return

    async def _ends_soon(self, stop_requested: asyncio.Event) -> bool:
        """Return whether all is done or a stop is requested within the next checks."""
        for _ in range(STALL_CHECKS):
            if stop_requested.is_set() or self._pool.fatal_diagnosis or await self.is_drained():
                return True
            if self._dispatcher.idle:
                await asyncio.sleep(CHECK_S)
            else:
                await self._dispatcher.wait_for_last_claim(BUSY_CHECK_S)
        return False

    async def is_drained(self) -> bool:
        """Return whether every readable file has a job and every job has ended."""
        if not (self._dispatcher.idle and self._intake.idle):
            return False
        try:
            return await self._ledger.read(count_unfinished_jobs) == 0
        except LedgerError:
            return False

    async def find_hindrances(self) -> Hindrances:
        """Return what keeps work from being done now. Call it before the services stop."""
        pauses = dict(self._pauses.reasons)
        failing = list(self._list_failing().values())
        if fatal := self._pool.fatal_diagnosis:
            pauses[DEVICE_PAUSE] = f"{fatal.what}. {fatal.hint}"
        if self._intake.refusal:
            pauses[LEDGER_PAUSE] = self._intake.refusal
        if await self.is_drained():  # an outbox that no job needs is not a problem
            pauses = {cause: why for cause, why in pauses.items() if cause.kind is PauseKind.INBOX}
            failing = []
        return Hindrances(pauses, failing)

    async def _is_stalled(self) -> bool:
        """Return whether all remaining work waits for something outside this daemon."""
        if self._intake.refusal or LEDGER_PAUSE in self._pauses or self._list_failing():
            return True
        if not self._intake.idle:
            return False
        if DEVICE_PAUSE in self._pauses:
            return True
        if self._dispatcher.computing:
            return False
        try:
            waiting = await self._ledger.read(find_unfinished_inboxes)
        except LedgerError:
            return True
        return all(self._pauses.yields_machine or self._why_held(inbox) for inbox in waiting)

    def _list_failing(self) -> dict[str, str]:
        """Return the failing services that block files, with their errors."""
        needed = {*self._intake.names, self._dispatcher.name}
        return {name: text for name, text in self._failures.texts.items() if name in needed}

    def _why_held(self, inbox: str) -> str:
        """Return why no job of this inbox is started; empty if jobs are started."""
        if all(inbox != configured.name for configured in self._settings.inboxes):
            return f"its inbox {inbox} is not in the configuration"
        pauses = self._pauses.reasons.items()
        return next((reason for cause, reason in pauses if cause.name == inbox), "")

    def build_account(self, hindrances: Hindrances, *, began: int, stopped: bool) -> Drained:
        """Return the outcome after the services have stopped, with the reason for each job left.

        `began`: the last event before the run. `stopped`: whether a stop was requested.
        """
        roots = {inbox.name: inbox.path for inbox in self._settings.inboxes}
        problems = [*hindrances.pauses.values(), *hindrances.failing]
        of_all = [reason for cause, reason in hindrances.pauses.items() if not cause.name]
        general = next(iter([*of_all, *hindrances.failing]), "")
        otherwise = "the daemon was stopped before its turn" if stopped else "it was not done"

        def build_path(row: Row) -> str:
            return (
                str(roots[str(row["inbox"])] / str(row["path"]))
                if row["inbox"] in roots
                else str(row["path"])
            )

        def reason(row: Row) -> str:
            return self._why_held(str(row["inbox"])) or general or str(row["error"] or otherwise)

        try:
            account = read_ledger(self._settings.state, load_run_account, began)
        except LedgerError as error:
            account = RunAccount({}, [], [])
            problems = [*problems, str(error)]
        failed = [UnfinishedFile(build_path(row), str(row["error"])) for row in account.failed]
        unfinished = [UnfinishedFile(build_path(row), reason(row)) for row in account.unfinished]
        return Drained(
            ended=account.ended,
            failed=tuple(failed),
            unfinished=(*unfinished, *self._intake.list_unfinished()),
            untaken=tuple(self._intake.untaken),
            troubles=tuple(problems),
        )
