"""Records worker failures, what was done about them, and how long they lasted."""

import asyncio

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, Remedy
from speakeasyd.domain.job import JobId
from speakeasyd.domain.worker_pool import DeviceChange, WorkerLost
from speakeasyd.ledger.ledger import Ledger

ACTIONS = {
    DeviceState.SOFT_RESTARTING: (
        "the worker reloads the model with smaller settings and continues where it was"
    ),
    DeviceState.STARTING: "a new worker is started",
    DeviceState.HALF_OPEN: "a new worker tries the device again",
    DeviceState.DEVICE_OPEN: "the device gets no work until a probe succeeds",
    DeviceState.CPU_ONLY: "the CPU is used until a probe of the device succeeds",
    DeviceState.STOPPED: "none: the daemon is stopping",
}
_NO_PROBE = {
    Remedy.REINSTALL: "no workers are started until the daemon is restarted",
    Remedy.CPU_FOR_GOOD: "the device gets no more work",
}
"""The action for a device that will not be probed."""

Suspect = tuple[JobId | None, int | None]
"""A job, and its chunk if known."""

_NO_SUSPECT: Suspect = (None, None)


class Incidents:
    """Opens an incident when a worker fails, and resolves it when the worker works again."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[str, list[int]] = {}  # by worker
        self._in_order = asyncio.Lock()  # keeps the order of the incidents in the ledger

    async def record_worker_loss(self, lost: WorkerLost) -> None:
        """Record that a worker has ended."""
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
        """Record a soft restart of a worker, or that it works again."""
        async with self._in_order:
            if (fault := change.fault) and change.cause:
                await self._open_incident(
                    change,
                    change.cause,
                    phase=fault.phase,
                    error=fault.error,
                    action=_name_action(change.state, change.cause),
                    suspect=next(iter(fault.in_flight), _NO_SUSPECT),
                )
            if change.down_s is not None:
                await self._close_incident(change.worker, round(change.down_s, 3))

    async def _open_incident(
        self,
        failure: WorkerLost | DeviceChange,
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
            device=failure.device,
            worker=failure.worker,
            error=f"{diagnosis.what}: {error}" if error else diagnosis.what,
            action=action,
            job_id=job_id,
            chunk=chunk,
        )
        self._open.setdefault(failure.worker, []).append(incident)

    async def _close_incident(self, worker: str, cost_seconds: float) -> None:
        incidents = self._open.get(worker, [])
        while incidents:  # one that the ledger could not store is tried again
            await self._ledger.close_incident(incidents[0], cost_seconds=cost_seconds)
            del incidents[0]


def _name_action(state: DeviceState, diagnosis: Diagnosis) -> str:
    if state is DeviceState.DEVICE_OPEN and diagnosis.remedy in _NO_PROBE:
        return _NO_PROBE[diagnosis.remedy]
    return ACTIONS[state]


def _find_suspect(lost: WorkerLost) -> Suspect:
    """Return the first suspect chunk, else the first opened file."""
    for task in lost.tasks:
        if task.suspects:
            return task.job_id, task.suspects[0].index
    return next((task.job_id for task in lost.tasks if task.opened), None), None
