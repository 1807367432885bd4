"""Exceptions lose no arrivals, and failures are reported until they end."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speakeasyd.errors import LedgerUnwritable
from speakeasyd.events import EventHub
from speakeasyd.inbox import file_identity
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import load_state, store_inbox_state
from speakeasyd.ledger.new_jobs import add_jobs, find_unknown_files
from speakeasyd.services import admission, service
from speakeasyd.services.failures import ServiceFailures
from tests.conftest import wait_until
from tests.integration.test_intake import FAST_WATCHING, IntakeSetup, create_setup

posix = pytest.mark.skipif(sys.platform == "win32", reason="a limit that only POSIX has")


@pytest.fixture(autouse=True)
def shorten_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FAILURE_RETRY_S", 0.1)


def read_failures(setup: IntakeSetup) -> ServiceFailures:
    return ServiceFailures(ledger=setup.ledger, hub=EventHub(), clock=setup.clock)


def build_failing_function(
    times: int, error: BaseException, function: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the function with errors for its first calls."""
    remaining = [times]

    def fail_or_call(*args: Any, **kwargs: Any) -> Any:
        if remaining[0]:
            remaining[0] -= 1
            raise error
        return function(*args, **kwargs)

    return fail_or_call


@posix
async def test_a_file_that_arrives_without_free_descriptors_is_added(tmp_path: Path) -> None:
    import resource

    async with create_setup(tmp_path, watch=FAST_WATCHING) as setup:
        failures = read_failures(setup)
        await setup.intake.start(failures)
        setup.write_file("before.wav")
        await setup.wait_for_jobs(1)
        beside = tmp_path / "late.wav"
        beside.write_bytes(b"late")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open(tmp_path, os.O_RDONLY)
        os.close(spare)  # the lowest free number; at this limit none can be opened
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            beside.rename(setup.inbox / "late.wav")
            await wait_until(
                lambda: (
                    setup.admission._arrivals._by_path or failures.texts or setup.pauses.reasons
                ),
                "the arrival",
            )
            await asyncio.sleep(1.0)  # long enough for a failing observation
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await setup.wait_for_jobs(2)
        await wait_until(lambda: not failures.texts, "the end of all failures")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "Too many open files")],
)
@pytest.mark.parametrize("where", ["find_local_device", "observe_file", "hash_file"])
async def test_errors_of_observing_or_reading_lose_no_file(
    tmp_path: Path, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        file_identity, where, build_failing_function(3, error, getattr(file_identity, where))
    )
    async with create_setup(tmp_path, watch=FAST_WATCHING) as setup:
        failures = read_failures(setup)
        await setup.intake.start(failures)
        for name in "abc":
            setup.write_file(f"{name}.wav")
        await setup.wait_for_jobs(3)
        await wait_until(lambda: not failures.texts, "the end of all failures")


@pytest.mark.parametrize("what", [find_unknown_files, add_jobs, store_inbox_state])
async def test_errors_of_the_ledger_lose_no_file(
    tmp_path: Path, what: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    remaining = [4]

    def fail_first(run: Callable[..., Any]) -> Callable[..., Any]:
        async def fail_or_call(
            self: Ledger, function: Callable[..., Any], *args: Any, **more: Any
        ) -> Any:
            if function is what and remaining[0]:
                remaining[0] -= 1
                raise RuntimeError("a defect")
            return await run(self, function, *args, **more)

        return fail_or_call

    monkeypatch.setattr(Ledger, "read", fail_first(Ledger.read))
    monkeypatch.setattr(Ledger, "write", fail_first(Ledger.write))
    async with create_setup(tmp_path, watch=FAST_WATCHING) as setup:
        await setup.intake.start(read_failures(setup))
        for name in "abc":
            setup.write_file(f"{name}.wav")
        await setup.wait_for_jobs(3)
        await wait_until(lambda: not remaining[0], "all injected errors")


async def test_a_failed_hash_worker_requeues_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_batch = admission.Admission._hash_batch
    monkeypatch.setattr(
        admission.Admission, "_hash_batch", build_failing_function(2, MemoryError(), hash_batch)
    )
    async with create_setup(tmp_path, watch=FAST_WATCHING) as setup:
        failures = read_failures(setup)
        await setup.intake.start(failures)
        setup.write_file("a.wav")
        await setup.wait_for_jobs(1)
        await wait_until(lambda: failures._saved == {}, "the end of all failures")
        assert await setup.ledger.read(load_state, "failures") == {}


async def test_lost_events_are_recovered_by_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speakeasyd.services.inbox_monitor import InboxMonitor

    async with create_setup(tmp_path, watch=FAST_WATCHING) as setup:
        await setup.intake.start(read_failures(setup))
        await wait_until(lambda: setup.intake.idle, "the first scan")
        take = InboxMonitor._process_changes

        def lose_events(self: InboxMonitor) -> None:
            if self._watcher.take_changes().files:
                monkeypatch.setattr(InboxMonitor, "_process_changes", take)
                raise MemoryError

        monkeypatch.setattr(InboxMonitor, "_process_changes", lose_events)
        setup.write_file("a.wav")
        await setup.wait_for_jobs(1)


class FailingService(service.Service):
    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = ValueError("a defect")

    async def run_once(self) -> float:
        if self.error:
            raise self.error
        return 60.0


async def test_a_failing_service_is_reported_until_it_works(tmp_path: Path) -> None:
    async with create_setup(tmp_path) as setup:
        failures = read_failures(setup)
        failing = FailingService()
        await failing.start(failures)
        await wait_until(lambda: failures._saved, "the failure")
        assert failures.texts == {"failingservice": "ValueError: a defect"}
        assert await setup.ledger.read(load_state, "failures") == {
            "failingservice": "ValueError: a defect"
        }
        failing.error = None
        failing.wake()
        await wait_until(lambda: not failures.texts, "the end of the failure")
        await failing.stop()


async def test_a_failure_is_stored_once_the_ledger_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with create_setup(tmp_path) as setup:
        failures = read_failures(setup)
        monkeypatch.setattr(
            Ledger, "write", build_failing_function(1, LedgerUnwritable("full"), Ledger.write)
        )
        await failures.begin_failure("a part", "it fails")
        assert failures.texts == {"a part": "it fails"}
        await failures.begin_failure("a part", "it fails")
        assert await setup.ledger.read(load_state, "failures") == {"a part": "it fails"}
