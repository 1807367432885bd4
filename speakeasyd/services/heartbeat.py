"""The heartbeat: the state of the workers for users, and the service manager's watchdog."""

from dataclasses import asdict

from speakeasyd.domain.pausing import LEDGER_PAUSE
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.errors import LedgerUnwritable
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import store_state
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.system.notify import notify_watchdog

BEAT_S = 2.0  # seconds between heartbeats
RSS_STEP = 32 << 20  # bytes; smaller changes of a worker's memory are not written


class Heartbeat(Service):
    """Beats only while the event loop runs, the ledger answers and the workers are supervised.

    While the ledger accepts no writes, the queue is paused.
    """

    def __init__(self, *, ledger: Ledger, pauses: Pauses, pool: WorkerPool) -> None:
        super().__init__()
        self._ledger = ledger
        self._pauses = pauses
        self._pool = pool
        self._stored: object = None

    async def run_once(self) -> float:
        workers = [
            asdict(status) | {"rss": status.rss // RSS_STEP * RSS_STEP}
            for status in self._pool.status()
        ]
        try:
            await self._ledger.take_lock()
            if workers != self._stored:
                await self._ledger.write(store_state, StateKey.WORKERS, workers)
                self._stored = workers
        except LedgerUnwritable as error:
            await self._pauses.begin_pause(LEDGER_PAUSE, str(error))
        else:
            await self._pauses.end_pause(LEDGER_PAUSE)
        if self._pool.is_supervised:
            notify_watchdog()
        return BEAT_S
