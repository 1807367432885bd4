"""What befell the workers, what was done about it and what it cost: rows that people read."""

import asyncio

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, Remedy
from speakeasyd.domain.job import JobId
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.workers.pool import DeviceChange, WorkerLost

ACTIONS = {
    DeviceState.SOFT_RESTARTING: "the worker loads the model again with smaller settings, and goes on where it was",
    DeviceState.STARTING: "a fresh worker takes over",
    DeviceState.HALF_OPEN: "a fresh worker tries the device again",
    DeviceState.DEVICE_OPEN: "the device gets no work until a probe of it comes through",
    DeviceState.CPU_ONLY: "the CPU takes over until a probe of the device comes through",
    DeviceState.STOPPED: "none: the daemon is leaving",
}
_NO_PROBE = {
    Remedy.REINSTALL: "no more workers are started until the daemon is started again",
    Remedy.CPU_FOR_GOOD: "the device gets no more work",
}
"""What is done instead about a device that nothing will probe."""

Suspect = tuple[JobId | None, int | None]
"""A job, and the chunk of it if one is known."""

_NOBODY: Suspect = (None, None)


class Incidents:
    """Opens an incident when a worker fails, and resolves those of a worker when it works again."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[str, list[int]] = {}  # by worker
        self._in_order = asyncio.Lock()  # what came later must not be in the ledger before

    async def record_worker_loss(self, lost: WorkerLost) -> None:
        """A worker is gone."""
        async with self._in_order:
            await self._open_incident(
                lost,
                lost.diagnosis,
                phase=lost.phase or "",
                error=lost.error,
                action=_name_action(lost.then, lost.diagnosis),
                suspect=_find_suspect(lost),
            )

    async def record_device_change(self, change: DeviceChange) -> None:
        """A worker mends itself, or works again."""
        async with self._in_order:
            if (fault := change.fault) and change.cause:
                await self._open_incident(
                    change,
                    change.cause,
                    phase=fault.phase,
                    error=fault.error,
                    action=_name_action(change.state, change.cause),
                    suspect=next(iter(fault.in_flight), _NOBODY),
                )
            if change.down_s is not None:
                await self._close_incident(change.worker, round(change.down_s, 3))

    async def _open_incident(
        self,
        news: WorkerLost | DeviceChange,
        diagnosis: Diagnosis,
        *,
        phase: str,
        error: str,
        action: str,
        suspect: Suspect,
    ) -> None:
        job_id, chunk = suspect
        incident = await self._ledger.open_incident(
            kind=diagnosis.kind,
            phase=phase,
            device=news.device,
            worker=news.worker,
            error=f"{diagnosis.what}: {error}" if error else diagnosis.what,
            action=action,
            job_id=job_id,
            chunk=chunk,
        )
        self._open.setdefault(news.worker, []).append(incident)

    async def _close_incident(self, worker: str, cost_seconds: float) -> None:
        incidents = self._open.get(worker, [])
        while incidents:  # what the ledger could not take is tried again
            await self._ledger.close_incident(incidents[0], cost_seconds=cost_seconds)
            del incidents[0]


def _name_action(state: DeviceState, diagnosis: Diagnosis) -> str:
    if state is DeviceState.DEVICE_OPEN and diagnosis.remedy in _NO_PROBE:
        return _NO_PROBE[diagnosis.remedy]
    return ACTIONS[state]


def _find_suspect(lost: WorkerLost) -> Suspect:
    """The first chunk under suspicion, else the first file that was being read."""
    for task in lost.tasks:
        if task.suspects:
            return task.job_id, task.suspects[0].index
    return next((task.job_id for task in lost.tasks if task.opened), None), None
