"""Housekeeping: deletes old rows of the ledger and makes scheduled backups."""

import asyncio
import logging
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

from speakeasyd.clock import Clock, format_utc
from speakeasyd.config import LedgerSettings
from speakeasyd.domain.state_keys import StateKey
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.backup import back_up_on_schedule
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import load_state, store_state
from speakeasyd.services.service import Service

log = logging.getLogger(__name__)

ROUND_S = 3600.0  # seconds between rounds


class Janitor(Service):
    def __init__(
        self, *, path: Path, ledger: Ledger, settings: LedgerSettings, clock: Clock
    ) -> None:
        super().__init__()
        self._path = path
        self._ledger = ledger
        self._settings = settings
        self._clock = clock

    async def run_once(self) -> float:
        keep = self._settings
        await self._ledger.prune_history(
            jobs_before=self._days_ago(keep.keep_days) if keep.keep_days else None,
            events_before=self._days_ago(keep.keep_event_days),
        )
        await self._back_up_when_due()
        return ROUND_S

    async def _back_up_when_due(self) -> None:
        hours = self._settings.backup_hours
        if not hours:
            return
        now = self._clock.utc()
        last = await self._ledger.read(load_state, StateKey.BACKED_UP)
        if last and abs(now - datetime.fromisoformat(last)) < timedelta(hours=hours):
            return  # a backup from far in the future was made before the clock was set back
        if last:  # otherwise the ledger is new
            try:
                copy = await asyncio.to_thread(
                    back_up_on_schedule, self._path, keep=self._settings.backup_keep
                )
            except (LedgerError, sqlite3.Error, OSError) as error:
                log.warning("the ledger was not backed up: %s", error)
                return
            log.info("the ledger was backed up: %s", copy)
        await self._ledger.write(store_state, StateKey.BACKED_UP, format_utc(now))

    def _days_ago(self, days: int) -> str:
        return format_utc(self._clock.utc() - timedelta(days=days))
