"""Records worker failures, what was done about them, and how long they lasted."""

import asyncio

from speakeasyd.domain.device_health import DeviceState
from speakeasyd.domain.fault import Diagnosis, Phase, Remedy
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.domain.job import JobId
from speakeasyd.domain.worker_pool import DeviceChange, WorkerLost
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import close_incident, open_incident

ACTIONS = {
    DeviceState.SOFT_RESTARTING: IncidentAction.RELOAD_MODEL,
    DeviceState.STARTING: IncidentAction.START_WORKER,
    DeviceState.HALF_OPEN: IncidentAction.TRY_DEVICE,
    DeviceState.DEVICE_OPEN: IncidentAction.PROBE_DEVICE,
    DeviceState.CPU_ONLY: IncidentAction.USE_CPU,
    DeviceState.STOPPED: IncidentAction.STOP,
}
_NO_PROBE = {
    Remedy.REINSTALL: IncidentAction.WAIT_FOR_RESTART,
    Remedy.CPU_FOR_GOOD: IncidentAction.GIVE_UP_DEVICE,
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
                phase=lost.phase,
                error=lost.error,
                action=_choose_action(lost.then, lost.diagnosis),
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
                    action=_choose_action(change.state, change.cause),
                    suspect=next(iter(fault.in_flight), _NO_SUSPECT),
                )
            if change.down_s is not None:
                await self._close_incident(change.worker, round(change.down_s, 3))

    async def _open_incident(
        self,
        failure: WorkerLost | DeviceChange,
        diagnosis: Diagnosis,
        *,
        phase: Phase,
        error: str,
        action: IncidentAction,
        suspect: Suspect,
    ) -> None:
        job_id, chunk = suspect
        incident = Incident(
            kind=diagnosis.kind,
            phase=phase,
            device=failure.device,
            worker=failure.worker,
            summary=diagnosis.what,
            detail=error,
            action=action,
            job_id=job_id,
            chunk=chunk,
        )
        incident_id = await self._ledger.write(open_incident, incident)
        self._open.setdefault(failure.worker, []).append(incident_id)

    async def _close_incident(self, worker: str, cost_seconds: float) -> None:
        incidents = self._open.get(worker, [])
        while incidents:  # one that the ledger could not store is tried again
            await self._ledger.write(close_incident, incidents[0], cost_seconds=cost_seconds)
            del incidents[0]


def _choose_action(state: DeviceState, diagnosis: Diagnosis) -> IncidentAction:
    if diagnosis.remedy is Remedy.OTHER_DEVICE:
        return IncidentAction.LEAVE_DEVICE
    if state is DeviceState.DEVICE_OPEN and diagnosis.remedy in _NO_PROBE:
        return _NO_PROBE[diagnosis.remedy]
    return ACTIONS[state]


def _find_suspect(lost: WorkerLost) -> Suspect:
    """Return the first suspect chunk, else the first opened file."""
    for task in lost.tasks:
        if task.suspects:
            return task.job_id, task.suspects[0].index
    return next((task.job_id for task in lost.tasks if task.opened), None), None
