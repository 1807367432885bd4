"""Fixtures of the unit tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from speakeasyd.ledger.ledger import Ledger
from speakeasyd.testing import ManualClock
from tests.ledgers import open_ledger


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Ledger]:
    """An empty ledger with the clock of the test."""
    async with open_ledger(tmp_path / "ledger.db", clock=clock) as ledger:
        yield ledger
