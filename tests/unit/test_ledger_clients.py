"""Questions of clients end in time, and hold nothing that the work needs."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from speakeasyd.errors import LedgerBusy, LedgerError, QueryError, QueryTimeout
from speakeasyd.ledger.clients import ClientReaders
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.search import build_match_expression
from tests.conftest import PATIENCE_S
from tests.ledgers import opened

ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with opened(tmp_path / "ledger.db") as one:
        yield one


@pytest.fixture
async def readers(ledger: Ledger, tmp_path: Path) -> AsyncIterator[ClientReaders]:
    readers = ClientReaders(tmp_path / "ledger.db", threads=2, limit_s=0.3)
    yield readers
    await readers.close()


def endless(connection: Connection) -> object:
    return connection.execute(text(ENDLESS)).all()


async def test_a_question_has_a_time_limit(readers: ClientReaders) -> None:
    with pytest.raises(QueryTimeout, match=r"longer than 0\.3 s"):
        await readers.query_rows(ENDLESS)
    with pytest.raises(QueryTimeout):
        await readers.read(endless)
    assert await readers.query_rows("SELECT 1 AS one") == [{"one": 1}]


async def test_a_question_that_nobody_waits_for_any_more_is_ended(
    ledger: Ledger, tmp_path: Path
) -> None:
    readers = ClientReaders(tmp_path / "ledger.db", threads=2, limit_s=3600.0)
    async with asyncio.timeout(PATIENCE_S):
        asking = [asyncio.create_task(readers.read(endless)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert await readers.query_rows("SELECT 1 AS one") == [{"one": 1}]
        await readers.close()


async def test_a_stop_waits_for_no_question(ledger: Ledger, tmp_path: Path) -> None:
    readers = ClientReaders(tmp_path / "ledger.db", threads=1, limit_s=3600.0)
    asking = [asyncio.create_task(readers.query_rows(ENDLESS)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await readers.close()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, LedgerError | asyncio.CancelledError) for answer in answers)


async def test_clients_hold_no_reader_of_the_work(ledger: Ledger) -> None:
    asking = [asyncio.create_task(ledger.searches.read(endless)) for _ in range(20)]
    await asyncio.sleep(0)
    began = time.monotonic()
    assert await ledger.find_next_job() is None
    assert time.monotonic() - began < PATIENCE_S
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_questions_that_wait_are_bounded(readers: ClientReaders) -> None:
    asking = [asyncio.create_task(readers.query_rows("SELECT 1")) for _ in range(200)]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert any(isinstance(answer, LedgerBusy) for answer in answers)
    assert any(isinstance(answer, list) for answer in answers)


@pytest.mark.parametrize(
    "words",
    [
        "a* b* c*",
        " ".join(f"w{n}" for n in range(40)),
        " ".join(f"word{n}*" for n in range(9)),
        '"a"*',
    ],
)
def test_what_would_take_very_long_is_refused(words: str) -> None:
    with pytest.raises(QueryError):
        build_match_expression(words)


def test_a_beginning_of_two_letters_is_enough() -> None:
    assert build_match_expression("tr* 日*") == '"tr" * AND "日" *'
