"""Queries of clients have a time limit and block no work."""

import asyncio
import gc
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from speakeasyd.errors import LedgerBusy, LedgerError, QueryError, QueryTimeout
from speakeasyd.ledger.claims import find_next_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readers import Readers
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import ReadConnection, fetch_rows, fetch_value, stream_rows
from speakeasyd.ledger.search import build_match_expression
from tests.conftest import PATIENCE_S
from tests.ledgers import build_job

ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
)


@pytest.fixture
async def readers(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Readers]:
    readers = Readers(tmp_path / "ledger.db", size=2, limit_s=0.3, waiting=64)
    yield readers
    await readers.close()


def run_endless_query(connection: Connection) -> object:
    return connection.execute(text(ENDLESS)).all()


async def test_a_query_has_a_time_limit(readers: Readers) -> None:
    with pytest.raises(QueryTimeout, match=r"longer than 0\.3 s"):
        await readers.read(run_endless_query)
    with pytest.raises(QueryTimeout):
        await readers.read(run_endless_query)
    assert await readers.read(fetch_rows, "SELECT 1 AS one") == [{"one": 1}]


async def test_an_abandoned_query_is_interrupted(ledger: Ledger, tmp_path: Path) -> None:
    readers = Readers(tmp_path / "ledger.db", size=2, limit_s=3600.0)
    async with asyncio.timeout(PATIENCE_S):
        asking = [asyncio.create_task(readers.read(run_endless_query)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert await readers.read(fetch_rows, "SELECT 1 AS one") == [{"one": 1}]
        await readers.close()


async def test_the_error_of_an_abandoned_query_is_not_logged(
    ledger: Ledger, tmp_path: Path
) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    readers = Readers(tmp_path / "ledger.db", size=1)
    started = threading.Event()

    def query(connection: Connection) -> object:
        started.set()
        return run_endless_query(connection)

    async with asyncio.timeout(PATIENCE_S):
        asking = asyncio.create_task(readers.read(query))
        await asyncio.to_thread(started.wait)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await readers.read(fetch_value, "SELECT 1")  # once the connection is free
        await readers.close()
    del asking  # its traceback refers to the query
    gc.collect()
    assert not reported


async def test_a_query_that_fails_leaves_no_snapshot(ledger: Ledger, tmp_path: Path) -> None:
    readers = Readers(tmp_path / "ledger.db", size=1)

    def fail(connection: Connection) -> None:
        rows = iter(connection.execute(text("SELECT 1 UNION SELECT 2")))
        raise ValueError(next(rows))  # its traceback keeps the unfinished statement

    with pytest.raises(ValueError, match="1") as raised:
        await readers.read(fail)
    await ledger.write(add_jobs, [build_job("new.wav")])
    assert await readers.read(fetch_value, "SELECT count(*) FROM jobs") == 1
    assert raised.value.__traceback__
    await readers.close()


async def test_a_reader_that_leaves_early_closes_its_connection(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    readers = Readers(tmp_path / "ledger.db", size=2)
    async with asyncio.timeout(PATIENCE_S):
        for turns in range(6):  # cancelled while the connection is opened, or later
            asking = asyncio.create_task(readers.read(fetch_value, "SELECT 1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert await readers.read(fetch_value, "SELECT 1") == 1
        await readers.close()
    gc.collect()
    assert not caplog.records


async def test_closing_waits_for_a_connection_that_is_being_opened(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Its thread needs the loop, which may be closed next."""
    opening, may_open = threading.Event(), threading.Event()

    def open_late(*_: object) -> None:
        opening.set()
        may_open.wait(PATIENCE_S)

    readers = Readers(tmp_path / "ledger.db", size=1)
    event.listen(Engine, "do_connect", open_late)
    try:
        async with asyncio.timeout(PATIENCE_S):
            asking = asyncio.create_task(readers.read(fetch_value, "SELECT 1"))
            await asyncio.to_thread(opening.wait)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            closing = asyncio.create_task(readers.close())
            done, _ = await asyncio.wait([closing], timeout=0.05)
            assert not done
            may_open.set()
            await closing
    finally:
        may_open.set()
        event.remove(Engine, "do_connect", open_late)


async def test_a_query_that_ends_as_its_caller_is_cancelled_is_not_interrupted_for_ever(
    ledger: Ledger, tmp_path: Path
) -> None:
    readers = Readers(tmp_path / "ledger.db", size=1)
    before = asyncio.all_tasks()
    async with asyncio.timeout(PATIENCE_S):
        asking = asyncio.create_task(readers.read(fetch_value, "SELECT 1"))
        while not readers._running:
            await asyncio.sleep(0)
        [query] = readers._running
        query.add_done_callback(lambda _query: asking.cancel())
        await asyncio.gather(asking, return_exceptions=True)
        await readers.close()
    assert asyncio.all_tasks() == before


async def test_one_time_limit_covers_both_attempts_of_a_query(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The first one ends with an I/O error when the time is over."""
    readers = Readers(tmp_path / "ledger.db", size=1, limit_s=0.3)
    attempts = 0

    def query(connection: Connection) -> object:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            return run_endless_query(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        with pytest.raises(OperationalError, match="interrupted"):
            run_endless_query(connection)
        raise error

    with pytest.raises(QueryTimeout):
        await readers.read(query)
    assert attempts == 2
    await readers.close()


async def test_a_query_may_raise_anything(ledger: Ledger, tmp_path: Path) -> None:
    def exhaust(_connection: object) -> object:
        return next(iter(()))

    async with asyncio.timeout(PATIENCE_S):
        for call in (ledger.read, ledger.write):
            with pytest.raises(RuntimeError, match="raised StopIteration"):
                await call(exhaust)
            with pytest.raises(RuntimeError, match="raised StopIteration"):
                await asyncio.gather(call(exhaust), call(exhaust))
        assert await ledger.read(fetch_value, "SELECT 1") == 1
        await ledger.take_lock()


async def test_a_query_after_an_interrupted_one_is_answered(ledger: Ledger, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    readers = Readers(tmp_path / "ledger.db", size=1)
    started = asyncio.Event()

    def read_forever(connection: Connection) -> object:
        loop.call_soon_threadsafe(started.set)
        return run_endless_query(connection)

    async with asyncio.timeout(PATIENCE_S):
        asking = asyncio.create_task(readers.read(read_forever))
        await started.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await readers.read(fetch_value, "SELECT 1") == 1
        await readers.close()


async def test_a_query_that_waits_for_a_connection_can_be_cancelled(
    ledger: Ledger, tmp_path: Path
) -> None:
    readers = Readers(tmp_path / "ledger.db", size=1)
    asking = [asyncio.create_task(readers.read(run_endless_query)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        for task in reversed(asking):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await readers.read(fetch_value, "SELECT 1") == 1
        await readers.close()


async def test_a_query_reads_one_snapshot(ledger: Ledger) -> None:
    loop = asyncio.get_running_loop()

    def count_before_and_after(connection: Connection) -> tuple[object, object]:
        before = fetch_value(connection, "SELECT count(*) FROM jobs")
        added = ledger.write(add_jobs, [build_job("new.wav")])
        asyncio.run_coroutine_threadsafe(added, loop).result(PATIENCE_S)
        return before, fetch_value(connection, "SELECT count(*) FROM jobs")

    assert await ledger.read(count_before_and_after) == (0, 0)
    assert await ledger.read(fetch_value, "SELECT count(*) FROM jobs") == 1


async def test_the_loop_works_while_a_query_runs(ledger: Ledger) -> None:
    loop = asyncio.get_running_loop()

    def query(connection: Connection) -> object:
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        return fetch_value(connection, "SELECT 1"), answered.wait(PATIENCE_S)

    assert await ledger.read(query) == (1, True)


async def test_nothing_can_be_written(ledger: Ledger) -> None:
    with pytest.raises(LedgerError):
        await ledger.read(fetch_rows, "DELETE FROM jobs")


async def test_rows_are_streamed(ledger: Ledger, tmp_path: Path) -> None:
    def take_three(connection: ReadConnection) -> list[object]:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
        with closing(stream_rows(connection, numbers)) as rows:
            return [row["i"] for row in islice(rows, 3)]

    async with asyncio.timeout(PATIENCE_S):
        assert await ledger.read(take_three) == [1, 2, 3]
    assert read_ledger(tmp_path, take_three) == [1, 2, 3]


async def test_a_stop_does_not_wait_for_queries(ledger: Ledger, tmp_path: Path) -> None:
    readers = Readers(tmp_path / "ledger.db", size=1, limit_s=3600.0)
    asking = [asyncio.create_task(readers.read(run_endless_query)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        await readers.close()
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, LedgerError | asyncio.CancelledError) for answer in answers)


async def test_clients_use_no_readers_of_the_work(ledger: Ledger) -> None:
    asking = [asyncio.create_task(ledger.searches.read(run_endless_query)) for _ in range(20)]
    await asyncio.sleep(0)
    began = time.monotonic()
    assert await ledger.read(find_next_job, ledger.now()) is None
    assert time.monotonic() - began < PATIENCE_S
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_waiting_queries_are_bounded(readers: Readers) -> None:
    asking = [asyncio.create_task(readers.read(fetch_rows, "SELECT 1")) for _ in range(200)]
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
def test_a_very_slow_search_is_refused(words: str) -> None:
    with pytest.raises(QueryError):
        build_match_expression(words)


def test_a_prefix_of_two_letters_is_enough() -> None:
    assert build_match_expression("tr* 日*") == '"tr" * AND "日" *'
