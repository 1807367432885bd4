"""What befell the workers, what was done about it and what it cost: rows that people read."""

from speakeasyd.domain.health import State
from speakeasyd.domain.job import JobId
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.workers.pool import DeviceChange, WorkerLost

ACTIONS = {
    State.STARTING: "a fresh worker takes over",
    State.DEVICE_OPEN: "the device gets no work until a probe of it comes through",
    State.CPU_ONLY: "the CPU takes over until a probe of the device comes through",
    State.STOPPED: "none: the daemon is leaving",
}


class Incidents:
    """Opens an incident when a worker is lost, and resolves those of a worker when it works again."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: dict[str, list[int]] = {}  # by worker

    async def lost(self, lost: WorkerLost) -> None:
        job_id, chunk = _suspect(lost)
        incident = await self._ledger.incident(
            kind=lost.kind,
            phase=lost.phase or "",
            device=lost.device,
            worker=lost.worker,
            error=f"{lost.diagnosis.what}: {lost.error}" if lost.error else lost.diagnosis.what,
            action=ACTIONS.get(lost.then, lost.then),
            job_id=job_id,
            chunk=chunk,
        )
        self._open.setdefault(lost.worker, []).append(incident)

    async def changed(self, change: DeviceChange) -> None:
        if change.down_s is not None:
            for incident in self._open.pop(change.worker, []):
                await self._ledger.resolve(incident, cost_seconds=round(change.down_s, 3))


def _suspect(lost: WorkerLost) -> tuple[JobId | None, int | None]:
    """The first chunk under suspicion, else the first file that was being read."""
    for task in lost.tasks:
        if task.suspects:
            return task.job_id, task.suspects[0].index
    return next((task.job_id for task in lost.tasks if task.opened), None), None
