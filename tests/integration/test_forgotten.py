"""No exception makes an arrival forgotten, and what fails is told until it works again."""

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
from tests.conftest import eventually
from tests.integration.test_intake import QUICK, Place, place

posix = pytest.mark.skipif(sys.platform == "win32", reason="a limit that only POSIX has")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FAILURE_RETRY_S", 0.1)


def failures_of(here: Place) -> ServiceFailures:
    return ServiceFailures(ledger=here.ledger, hub=EventHub(), clock=here.clock)


def raising_first(
    times: int, error: BaseException, function: Callable[..., Any]
) -> Callable[..., Any]:
    """`function`, which raises so many times before it works."""
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return function(*args, **kwargs)

    return call


@posix
async def test_a_file_that_comes_while_no_descriptor_is_left_is_taken(tmp_path: Path) -> None:
    import resource

    async with place(tmp_path, watch=QUICK) as here:
        failures = failures_of(here)
        await here.intake.start(failures)
        here.put("before.wav")
        await here.has(1)
        beside = tmp_path / "late.wav"
        beside.write_bytes(b"late")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.open(tmp_path, os.O_RDONLY)
        os.close(spare)  # the lowest number that is free: from it on, none is to be had
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            beside.rename(here.inbox / "late.wav")
            await eventually(
                lambda: here.admission._arrivals._by_path or failures.texts or here.pauses.reasons,
                "the file to be noticed",
            )
            await asyncio.sleep(1.0)  # long enough for a look that fails
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await here.has(2)
        await eventually(lambda: not failures.texts, "all to be well")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "Too many open files")],
)
@pytest.mark.parametrize("where", ["find_local_device", "observe_file", "hash_file"])
async def test_what_is_raised_while_a_file_is_looked_at_or_read_loses_nothing(
    tmp_path: Path, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        file_identity, where, raising_first(3, error, getattr(file_identity, where))
    )
    async with place(tmp_path, watch=QUICK) as here:
        failures = failures_of(here)
        await here.intake.start(failures)
        for name in "abc":
            here.put(f"{name}.wav")
        await here.has(3)
        await eventually(lambda: not failures.texts, "all to be well")


@pytest.mark.parametrize("what", [find_unknown_files, add_jobs, store_inbox_state])
async def test_what_the_ledger_raises_loses_nothing(
    tmp_path: Path, what: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [4]

    def fail_first(run: Callable[..., Any]) -> Callable[..., Any]:
        async def call(self: Ledger, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
            if function is what and left[0]:
                left[0] -= 1
                raise RuntimeError("a defect")
            return await run(self, function, *args, **more)

        return call

    monkeypatch.setattr(Ledger, "read", fail_first(Ledger.read))
    monkeypatch.setattr(Ledger, "write", fail_first(Ledger.write))
    async with place(tmp_path, watch=QUICK) as here:
        await here.intake.start(failures_of(here))
        for name in "abc":
            here.put(f"{name}.wav")
        await here.has(3)
        await eventually(lambda: not left[0], "the errors to be used up")


async def test_a_failed_hash_worker_requeues_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_batch = admission.Admission._hash_batch
    monkeypatch.setattr(
        admission.Admission, "_hash_batch", raising_first(2, MemoryError(), hash_batch)
    )
    async with place(tmp_path, watch=QUICK) as here:
        failures = failures_of(here)
        await here.intake.start(failures)
        here.put("a.wav")
        await here.has(1)
        await eventually(lambda: failures._saved == {}, "all to be well")
        assert await here.ledger.read(load_state, "failures") == {}


async def test_events_that_could_not_be_taken_are_found_by_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speakeasyd.services.inbox_monitor import InboxMonitor

    async with place(tmp_path, watch=QUICK) as here:
        await here.intake.start(failures_of(here))
        await eventually(lambda: here.intake.idle, "the first scan")
        take = InboxMonitor._process_changes

        def lose(self: InboxMonitor) -> None:
            if self._watcher.take_changes().files:
                monkeypatch.setattr(InboxMonitor, "_process_changes", take)
                raise MemoryError

        monkeypatch.setattr(InboxMonitor, "_process_changes", lose)
        here.put("a.wav")
        await here.has(1)


class Failing(service.Service):
    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = ValueError("a defect")

    async def run_once(self) -> float:
        if self.error:
            raise self.error
        return 60.0


async def test_a_service_that_fails_is_told_of_until_it_works(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        failures = failures_of(here)
        failing = Failing()
        await failing.start(failures)
        await eventually(lambda: failures._saved, "the failure")
        assert failures.texts == {"failing": "ValueError: a defect"}
        assert await here.ledger.read(load_state, "failures") == {"failing": "ValueError: a defect"}
        failing.error = None
        failing.wake()
        await eventually(lambda: not failures.texts, "the end of it")
        await failing.stop()


async def test_a_failure_that_the_ledger_cannot_note_is_noted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path) as here:
        failures = failures_of(here)
        monkeypatch.setattr(
            Ledger, "write", raising_first(1, LedgerUnwritable("full"), Ledger.write)
        )
        await failures.begin_failure("a part", "it fails")
        assert failures.texts == {"a part": "it fails"}
        await failures.begin_failure("a part", "it fails")
        assert await here.ledger.read(load_state, "failures") == {"a part": "it fails"}
