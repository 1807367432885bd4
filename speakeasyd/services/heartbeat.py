"""Signs of life: the workers' state for people, and the watchdog's for the service manager."""

from dataclasses import asdict

from speakeasyd.host.notify import watchdog
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.services.service import Service
from speakeasyd.workers.pool import Pool

BEAT_S = 2.0  # seconds
RSS_STEP = 32 << 20  # bytes: smaller changes are not worth a write


class Heartbeat(Service):
    """A beat comes only when the loop turns and, where there is news, the ledger takes a write."""

    def __init__(self, *, ledger: Ledger, pool: Pool) -> None:
        super().__init__()
        self._ledger = ledger
        self._pool = pool
        self._said: object = None

    async def run_once(self) -> float:
        workers = [asdict(status) | {"rss": status.rss // RSS_STEP * RSS_STEP} for status in self._pool.status()]
        if workers != self._said:
            await self._ledger.set_state("workers", workers)
            self._said = workers
        watchdog()
        return BEAT_S
