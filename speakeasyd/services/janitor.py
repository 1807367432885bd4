"""Housekeeping: old rows leave the ledger by the settings."""

from datetime import timedelta

from speakeasyd.clock import Clock, iso
from speakeasyd.config import LedgerSettings
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.services.service import Service

ROUND_S = 3600.0  # seconds between rounds


class Janitor(Service):
    def __init__(self, *, ledger: Ledger, settings: LedgerSettings, clock: Clock) -> None:
        super().__init__()
        self._ledger = ledger
        self._settings = settings
        self._clock = clock

    async def run_once(self) -> float:
        keep = self._settings
        await self._ledger.prune(
            jobs_before=self._ago(keep.keep_days) if keep.keep_days else None,
            events_before=self._ago(keep.keep_event_days),
        )
        return ROUND_S

    def _ago(self, days: int) -> str:
        return iso(self._clock.utc() - timedelta(days=days))
