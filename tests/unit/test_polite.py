"""Work pauses outside its hours and when memory is short, and resumes by itself."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.config import PoliteSettings
from speakeasyd.domain.memory_pressure import (
    CALM_LOOKS,
    CALM_SHARE,
    MemoryPressure,
    update_pressure,
)
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.domain.worker_pool import WorkerPool, WorkerStatus
from speakeasyd.events import EventHub
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.resource_guard import ResourceGuard
from speakeasyd.system.memory import read_available_mb
from speakeasyd.testing import ManualClock
from speakeasyd.workers.gpu_memory import find_least_mb, list_gpu_workers, read_gpu_available_mb
from tests.ledgers import open_ledger

# --- the rule


def test_pressure_ends_only_after_a_calm_period() -> None:
    state = update_pressure(MemoryPressure(), available=99, limit=100)
    assert state.high
    assert update_pressure(state, available=110, limit=100).high, "not enough to come back"
    for _ in range(CALM_LOOKS - 1):
        state = update_pressure(state, available=100 * CALM_SHARE, limit=100)
        assert state.high
    assert update_pressure(state, available=100 * CALM_SHARE - 1, limit=100).calm == 0, (
        "calm has to be in a row"
    )
    assert not update_pressure(state, available=100 * CALM_SHARE, limit=100).high


@given(st.lists(st.one_of(st.none(), st.floats(0, 1000)), max_size=40), st.floats(1, 500))
def test_pressure_is_high_exactly_from_a_shortage_to_the_calm(
    looks: list[float | None], limit: float
) -> None:
    state, known = MemoryPressure(), []
    for there in looks:
        state = update_pressure(state, available=there, limit=limit)
        if there is not None:
            known.append(there)
        last = max((n for n, each in enumerate(known) if each < limit), default=None)
        since = known[last + 1 :] if last is not None else []
        calm = [
            all(each >= limit * CALM_SHARE for each in since[n : n + CALM_LOOKS])
            for n in range(len(since))
        ]
        ended = any(calm[: max(0, len(since) - CALM_LOOKS + 1)])
        assert state.high == (last is not None and not ended)


def test_without_a_limit_memory_is_never_short() -> None:
    assert update_pressure(MemoryPressure(high=True), available=0, limit=0) == MemoryPressure()


# --- measurements


def test_own_memory_on_a_gpu_does_not_count() -> None:
    free = [["GPU-a", "1000"], ["GPU-b", "3000"]]
    held = [["GPU-a", "7", "5000"], ["GPU-a", "8", "2000"], ["GPU-b", "9", "100"]]
    assert find_least_mb(free, held, ()) == 1000
    assert find_least_mb(free, held, {7}) == 3000
    assert find_least_mb(free, held, {7, 9}) == 3100
    assert find_least_mb(free, held, {1}) is None, "ours are not seen: nobody can tell"
    assert find_least_mb([["GPU-a", "[N/A]"]], [], ()) is None
    assert find_least_mb([], [], ()) is None


async def test_the_real_tool_is_called(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("a shell script stands for nvidia-smi")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in *gpu=*) echo "GPU-a, 1000";; *) echo "GPU-a, 7, 500";; esac\n'
    )
    tool.chmod(0o755)
    assert await read_gpu_available_mb([7], tool=str(tool)) == 1500
    assert await read_gpu_available_mb([], tool=str(tmp_path / "missing")) is None


def test_the_memory_of_this_machine_is_read() -> None:
    assert 1 < read_available_mb() < 1e9


# --- the service


@dataclass
class FakePool:
    vram: list[float | None]
    unloads: int = 0

    def unload_idle_models(self) -> None:
        self.unloads += 1

    def status(self) -> list[WorkerStatus]:
        return [WorkerStatus("w", "cuda:0", "ready", "tiny", pid=7, tasks=0, since="", rss=0)]

    async def read_gpu_available_mb(self) -> float | None:
        assert list_gpu_workers(self.status()) == [7]
        return self.vram[0]


@dataclass
class PoliteSetup:
    polite: ResourceGuard
    pauses: Pauses
    clock: ManualClock
    pool: FakePool
    memory: list[float] = field(default_factory=lambda: [5000.0])
    vram: list[float | None] = field(default_factory=lambda: [None])


@asynccontextmanager
async def create_setup(folder: Path, **settings: object) -> AsyncIterator[PoliteSetup]:
    local = datetime(2026, 1, 5, 12).astimezone()
    memory, vram = [5000.0], cast("list[float | None]", [None])
    clock, hub, pool = ManualClock(local), EventHub(), FakePool(vram)

    async with open_ledger(folder / "ledger.db", clock=clock, hub=hub) as ledger:
        pauses = Pauses(ledger=ledger, hub=hub, clock=clock)
        polite = ResourceGuard(
            settings=PoliteSettings.model_validate(settings),
            pauses=pauses,
            pool=cast(WorkerPool, pool),
            clock=clock,
            memory_mb=lambda: memory[0],
        )
        yield PoliteSetup(polite, pauses, clock, pool, memory, vram)


async def test_the_hours_of_work(tmp_path: Path) -> None:
    async with create_setup(tmp_path, hours=["13:00-14:00"]) as it:
        await it.polite.run_once()
        assert it.pauses.yields_machine
        assert PauseCause(PauseKind.HOURS) in it.pauses
        it.clock.advance(timedelta(hours=1).total_seconds())
        await it.polite.run_once()
        assert not it.pauses.yields_machine
        it.clock.advance(timedelta(hours=1).total_seconds())
        await it.polite.run_once()
        assert it.pauses.yields_machine


async def test_short_memory_frees_models_until_it_ends(tmp_path: Path) -> None:
    async with create_setup(tmp_path, memory_mb=1000) as it:
        await it.polite.run_once()
        assert not it.pauses.yields_machine
        it.memory[0] = 900
        await it.polite.run_once()
        assert PauseCause(PauseKind.MEMORY) in it.pauses
        assert it.pool.unloads == 1
        it.memory[0] = 4000
        for _ in range(CALM_LOOKS):
            assert it.pauses.yields_machine
            await it.polite.run_once()
        assert not it.pauses.yields_machine


async def test_short_gpu_memory_pauses_work(tmp_path: Path) -> None:
    async with create_setup(tmp_path, vram_mb=1000) as it:
        await it.polite.run_once()
        assert not it.pauses.yields_machine
        it.vram[0] = 10
        await it.polite.run_once()
        assert PauseCause(PauseKind.VRAM) in it.pauses


async def test_without_settings_nothing_pauses(tmp_path: Path) -> None:
    async with create_setup(tmp_path) as it:
        it.memory[0] = 0
        await it.polite.run_once()
        assert not it.pauses.yields_machine
