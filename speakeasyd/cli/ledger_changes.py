"""Changes to the ledger beside a running daemon: short transactions of their own, under the same conditions as its."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from speakeasyd.clock import SystemClock
from speakeasyd.domain.event_payloads import DaemonRequest
from speakeasyd.errors import SpeakeasyError
from speakeasyd.events import EventHub
from speakeasyd.ledger import maintenance
from speakeasyd.ledger.access import require_readable, require_writable
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.readonly import LEDGER


@asynccontextmanager
async def open_for_changes(state: Path) -> AsyncIterator[Ledger]:
    """Raises LedgerError where there is no ledger, LedgerDenied where this user may not change it."""
    require_writable(state / LEDGER)
    ledger = await Ledger.open(state / LEDGER, clock=SystemClock(), hub=EventHub())
    try:
        yield ledger
    finally:
        await ledger.close()


def send_request(state: Path, request: DaemonRequest) -> None:
    """Leave a request for the running daemon, which receives it within three seconds.

    Raises SpeakeasyError when there is none.
    """
    require_readable(state / LEDGER)
    if find_holder(state) is None:
        raise SpeakeasyError("no daemon is running", hint="`speakeasyd run` starts one.")
    asyncio.run(_store_request(state, request))


async def _store_request(state: Path, request: DaemonRequest) -> None:
    async with open_for_changes(state) as ledger:
        await ledger.write(maintenance.send_request, request)
