"""Pauses work outside of the working hours and while memory is short."""

from collections.abc import Callable

from speakeasyd.clock import Clock
from speakeasyd.config import PoliteSettings
from speakeasyd.domain import work_hours
from speakeasyd.domain.memory_pressure import MemoryPressure, update_pressure
from speakeasyd.domain.pausing import PauseCause, PauseKind
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.system.memory import read_available_mb

CHECK_S = 15.0  # seconds between checks
PRESSURE_CHECK_S = 5.0  # seconds between checks while memory is short


class ResourceGuard(Service):
    """Begins and ends the pauses `hours`, `memory` and `vram`, during which no claim is held."""

    def __init__(
        self,
        *,
        settings: PoliteSettings,
        pauses: Pauses,
        pool: WorkerPool,
        clock: Clock,
        memory_mb: Callable[[], float] = read_available_mb,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._spans = [work_hours.parse_window(span) for span in settings.hours]
        self._pauses = pauses
        self._pool = pool
        self._clock = clock
        self._memory_mb = memory_mb
        self._memory = MemoryPressure()
        self._vram = MemoryPressure()

    async def run_once(self) -> float:
        await self._apply_work_hours()
        settings = self._settings
        self._memory = update_pressure(
            self._memory, available=self._memory_mb(), limit=settings.memory_mb
        )
        await self._set_pause(
            PauseKind.MEMORY,
            self._memory.high,
            f"less than {settings.memory_mb} MB of memory are available",
        )
        vram_mb = await self._pool.read_gpu_available_mb() if settings.vram_mb else None
        self._vram = update_pressure(self._vram, available=vram_mb, limit=settings.vram_mb)
        await self._set_pause(
            PauseKind.VRAM,
            self._vram.high,
            f"other programs leave a GPU less than {settings.vram_mb} MB of memory",
        )
        if not (self._memory.high or self._vram.high):
            return CHECK_S
        self._pool.unload_idle_models()
        return PRESSURE_CHECK_S

    async def _apply_work_hours(self) -> None:
        local = self._clock.utc().astimezone()
        outside = not work_hours.is_work_time(self._spans, local)
        begins = f"{work_hours.find_next_begin(self._spans, local):%A %H:%M}" if outside else ""
        await self._set_pause(
            PauseKind.HOURS, outside, f"outside of the working hours; they begin on {begins}"
        )

    async def _set_pause(self, kind: PauseKind, holds: bool, reason: str) -> None:
        if holds:
            await self._pauses.begin_pause(PauseCause(kind), reason)
        else:
            await self._pauses.end_pause(PauseCause(kind))
