"""Changes to the ledger beside a running daemon: short transactions of their own, under the same conditions as its."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from speakeasyd.cli.asking import LEDGER
from speakeasyd.clock import SystemClock
from speakeasyd.events import Hub
from speakeasyd.ledger.ledger import Ledger


@asynccontextmanager
async def changing(state: Path) -> AsyncIterator[Ledger]:
    """Raises LedgerError where there is no ledger."""
    ledger = await Ledger.open(state / LEDGER, clock=SystemClock(), hub=Hub())
    try:
        yield ledger
    finally:
        await ledger.close()
