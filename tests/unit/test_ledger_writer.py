"""The writer: grouped operations, cancellation, full disks and events."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import JobFailed, JobNoted, PauseRequested
from speakeasyd.domain.fault import FaultKind
from speakeasyd.domain.incidents import Incident, IncidentAction
from speakeasyd.domain.transcript import Chunk
from speakeasyd.errors import ClaimLost, LedgerError, LedgerFull, LedgerUnwritable
from speakeasyd.events import Event, EventHub
from speakeasyd.ledger.claims import fail_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import open_incident, send_request, store_state
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import store_results
from speakeasyd.ledger.writer import Transaction, Writer
from speakeasyd.testing import ManualClock
from tests.conftest import PATIENCE_S, wait_until
from tests.ledgers import add_claimed_jobs, build_chunk, build_job, create_ledger, open_ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_ledger(tmp_path / "ledger.db")
    return tmp_path / "ledger.db"


@pytest.fixture
def hub() -> EventHub:
    return EventHub()


@pytest.fixture
async def writer(path: Path, hub: EventHub) -> AsyncIterator[Writer]:
    writer = await Writer.open(path, clock=ManualClock(), hub=hub, boot_id="boot")
    yield writer
    await writer.close()


def insert_state(tx: Transaction, key: str) -> None:
    tx.connection.execute(text("INSERT INTO state VALUES (:key, '1', '2026')"), {"key": key})
    tx.record_event(JobFailed(error_code="test", error=key))


def list_keys(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM state ORDER BY key")]


async def collect_events(hub: EventHub, ledger: Ledger) -> list[Event]:
    """Return the events that are published until the next answer of the ledger."""
    with hub.subscribe() as subscription:
        await ledger.detect_foreign_commit()
        await ledger.write(store_state, "last", 1)
        return [await anext(subscription) for _ in range(subscription._queue.qsize())]


async def test_waiting_operations_share_a_transaction(path: Path, writer: Writer) -> None:
    def count_commits() -> int:
        return path.with_name("ledger.db-wal").stat().st_size

    await writer.run_operation(insert_state, "first")
    alone = count_commits()
    await writer.run_operation(insert_state, "second")
    one_more = count_commits() - alone
    await asyncio.gather(*(writer.run_operation(insert_state, f"many {i}") for i in range(20)))
    assert count_commits() - alone - one_more < 5 * one_more
    assert len(list_keys(path)) == 22


async def test_a_failed_operation_is_rolled_back_alone(
    path: Path, writer: Writer, hub: EventHub
) -> None:
    def put_and_fail(tx: Transaction) -> None:
        insert_state(tx, "never")
        raise ClaimLost("not this one")

    with hub.subscribe() as subscription:
        outcomes = await asyncio.gather(
            writer.run_operation(insert_state, "a"),
            writer.run_operation(put_and_fail),
            writer.run_operation(insert_state, "b"),
            return_exceptions=True,
        )
        received = [(await anext(subscription)).data["error"] for _ in range(2)]
    assert [type(outcome) for outcome in outcomes] == [type(None), ClaimLost, type(None)]
    assert list_keys(path) == ["a", "b"]
    assert received == ["a", "b"]


async def test_a_cancelled_caller_interrupts_nothing(path: Path, writer: Writer) -> None:
    def write_slowly(tx: Transaction) -> None:
        count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"
        tx.connection.execute(text(count))
        insert_state(tx, "slow")

    callers = [
        asyncio.create_task(writer.run_operation(write_slowly)),
        asyncio.create_task(writer.run_operation(insert_state, "queued")),
    ]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
        with suppress(asyncio.CancelledError):
            await caller
    await writer.run_operation(insert_state, "after")
    assert list_keys(path) == ["after", "queued", "slow"]
    with closing(sqlite3.connect(path, timeout=0)) as other:  # the write lock is free
        other.execute("INSERT INTO state VALUES ('other', '1', '2026')")


async def test_callers_of_a_cancelled_writer_get_an_error(path: Path) -> None:
    writer = await Writer.open(path, clock=ManualClock(), hub=EventHub(), boot_id="boot")
    entered, proceed = threading.Event(), threading.Event()

    def wait_in_transaction(_transaction: Transaction) -> None:
        entered.set()
        assert proceed.wait(PATIENCE_S)

    callers = [asyncio.create_task(writer.run_operation(wait_in_transaction))]
    await asyncio.to_thread(entered.wait, PATIENCE_S)
    callers.append(asyncio.create_task(writer.run_operation(insert_state, "a")))
    await asyncio.sleep(0)  # it waits for the first
    assert writer._task
    writer._task.cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), PATIENCE_S)
    proceed.set()
    assert [type(outcome) for outcome in outcomes] == [LedgerError, LedgerError]
    with pytest.raises(LedgerError):
        await writer.run_operation(insert_state, "b")
    await writer.close()


async def test_closing_completes_waiting_operations(path: Path) -> None:
    writer = await Writer.open(path, clock=ManualClock(), hub=EventHub(), boot_id="boot")
    waiting = [asyncio.create_task(writer.run_operation(insert_state, str(i))) for i in range(3)]
    await asyncio.sleep(0)
    await writer.close()
    await asyncio.gather(*waiting)
    assert list_keys(path) == ["0", "1", "2"]
    await writer.close()
    with pytest.raises(LedgerError, match="closed"):
        await writer.run_operation(insert_state, "late")


async def test_every_caller_gets_the_error_of_a_full_disk(path: Path, writer: Writer) -> None:
    pages = 0

    def fill_disk(tx: Transaction) -> None:
        nonlocal pages
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def write_large_value(tx: Transaction) -> None:
        tx.connection.execute(
            text("INSERT INTO state VALUES ('big', :value, '2026')"), {"value": "x" * 1_000_000}
        )

    await writer.run_operation(fill_disk)
    outcomes = await asyncio.gather(
        writer.run_operation(insert_state, "a"),
        writer.run_operation(write_large_value),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [LedgerFull, LedgerFull]
    assert list_keys(path) == []
    await writer.run_operation(
        lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    )
    await writer.run_operation(write_large_value)
    assert list_keys(path) == ["big"]


async def test_a_lock_of_another_program_is_an_error_after_a_wait(
    path: Path, writer: Writer
) -> None:
    await writer._run_in_thread(writer._read_pragma, "busy_timeout = 50")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnwritable):
            await writer.run_operation(insert_state, "a")
        other.execute("ROLLBACK")
    await writer.run_operation(insert_state, "b")
    assert list_keys(path) == ["b"]


async def test_a_long_log_is_truncated_after_a_reader(path: Path, writer: Writer) -> None:
    writer._wal_limit = 100_000
    wal = path.with_name("ledger.db-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM state").fetchone()
        for i in range(30):
            await writer.run_operation(insert_state, f"{i}" + "x" * 5000)
        assert wal.stat().st_size > 100_000
        reader.execute("COMMIT")
    writer._wal_limit = 100_000
    await writer.run_operation(insert_state, "last")
    await wait_until(lambda: wal.stat().st_size == 0, "the truncated log")


async def test_a_missing_ledger_is_an_error_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        await Ledger.open(tmp_path / "ledger.db", clock=ManualClock(), hub=EventHub())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no database, " * 500])
async def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(LedgerError):
        await Ledger.open(tmp_path / "ledger.db", clock=ManualClock(), hub=EventHub())


# --- events


async def test_events_are_published_once_durable_and_kept_in_order(
    path: Path, hub: EventHub
) -> None:
    async with open_ledger(path, hub=hub) as ledger:
        with hub.subscribe() as subscription:
            [job] = await add_claimed_jobs(ledger, build_job("a"))
            await ledger.write(store_results, [(job.id, job.token, JobNoted(language="en"))])
            await ledger.write(store_results, [(job.id, job.token, build_chunk(0, " one"))])
            await ledger.write(fail_job, job.id, job.token, code="internal", error="broken")
            received = [await anext(subscription) for _ in range(5)]
        kept = query_readonly(ledger.path, "SELECT seq, kind, job_id FROM events ORDER BY seq")
    assert [(event.kind, event.seq) for event in received] == [
        ("job.added", 1),
        ("job.claimed", 2),
        ("job.noted", None),
        ("chunk.done", 3),
        ("job.failed", 4),
    ]
    assert [(row["seq"], row["kind"], row["job_id"]) for row in kept] == [
        (event.seq, event.kind, event.job_id) for event in received if event.seq
    ]


async def test_events_of_other_programs_are_published(path: Path, hub: EventHub) -> None:
    async with open_ledger(path, hub=hub) as daemon, open_ledger(path, boot_id="") as command:
        assert not await daemon.detect_foreign_commit()
        [job] = await add_claimed_jobs(daemon, build_job("a"))
        assert not await daemon.detect_foreign_commit()
        await command.cancel_jobs([job.id])
        received = await collect_events(hub, daemon)
        assert [(event.kind, event.job_id, event.seq) for event in received] == [
            ("job.cancelled", job.id, 3)
        ]
        assert not await daemon.detect_foreign_commit()
        await command.retry_jobs([job.id])
        assert await daemon.detect_foreign_commit()


@pytest.mark.parametrize("publish", [Ledger.detect_foreign_commit, Ledger.take_lock])
async def test_checks_publish_events_of_other_programs(
    path: Path, hub: EventHub, publish: Callable[[Ledger], Awaitable[object]]
) -> None:
    async with open_ledger(path, hub=hub) as daemon, open_ledger(path, boot_id="") as command:
        with hub.subscribe() as events:
            for _ in range(2):  # the first commit is before the daemon's first check
                await command.write(send_request, PauseRequested())
                await publish(daemon)
                assert (await anext(events)).kind is EventKind.PAUSE_REQUESTED


async def test_event_ids_are_never_reused(path: Path, hub: EventHub) -> None:
    incident = Incident(
        kind=FaultKind.HANG, phase="encode", summary="", action=IncidentAction.START_WORKER
    )
    async with open_ledger(path) as daemon, open_ledger(path, boot_id="") as command:
        for ledger in (daemon, command, daemon, command):
            await ledger.write(open_incident, incident)
        await daemon.prune_history(jobs_before=None, events_before="2027")
        await command.write(open_incident, incident)
        assert [
            row["seq"] for row in query_readonly(daemon.path, "SELECT seq FROM events ORDER BY seq")
        ] == [4, 5]


async def test_chunks_of_many_jobs_are_one_commit(path: Path) -> None:
    async with open_ledger(path) as ledger:
        jobs = await add_claimed_jobs(ledger, *(build_job(str(i)) for i in range(10)))
        done = [(job.id, job.token, Chunk(index, 0.0, 1.0)) for job in jobs for index in range(5)]
        wal = path.with_name("ledger.db-wal")
        before = wal.stat().st_size
        assert await ledger.write(store_results, done) == frozenset()
        assert (wal.stat().st_size - before) // 4096 < 20  # pages, not fifty transactions
        assert query_readonly(ledger.path, "SELECT count(*) AS n FROM chunks") == [{"n": 50}]
