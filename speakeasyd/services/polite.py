"""Leaves the machine to others: outside of the hours of work, and when memory is short."""

from collections.abc import Awaitable, Callable

from speakeasyd.clock import Clock
from speakeasyd.config import PoliteSettings
from speakeasyd.domain import hours
from speakeasyd.domain.pressure import Pressure, look
from speakeasyd.host.memory import available_mb, gpu_available_mb
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.service import Service
from speakeasyd.workers.pool import Pool

LOOK_S = 15.0  # seconds between looks
HELD_LOOK_S = 5.0  # seconds while memory is short: others should not wait for our models to go


class Polite(Service):
    """Begins and ends the pauses `hours`, `memory` and `vram`, for which the dispatcher lets go of its work."""

    def __init__(
        self,
        *,
        settings: PoliteSettings,
        pauses: Pauses,
        pool: Pool,
        clock: Clock,
        memory_mb: Callable[[], float] = available_mb,
        vram_mb: Callable[[list[int]], Awaitable[float | None]] = gpu_available_mb,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._spans = [hours.parse(span) for span in settings.hours]
        self._pauses = pauses
        self._pool = pool
        self._clock = clock
        self._memory_mb = memory_mb
        self._vram_mb = vram_mb
        self._memory = Pressure()
        self._vram = Pressure()

    async def run_once(self) -> float:
        await self._keep_hours()
        wanted = self._settings
        self._memory = look(self._memory, there=self._memory_mb(), limit=wanted.memory_mb)
        await self._hold("memory", self._memory.high, f"less than {wanted.memory_mb} MB of memory are available")
        there = await self._vram_mb(self._workers_on_gpu()) if wanted.vram_mb else None
        self._vram = look(self._vram, there=there, limit=wanted.vram_mb)
        await self._hold("vram", self._vram.high, f"other programs leave a GPU less than {wanted.vram_mb} MB of memory")
        if not (self._memory.high or self._vram.high):
            return LOOK_S
        self._pool.unload()
        return HELD_LOOK_S

    async def _keep_hours(self) -> None:
        local = self._clock.utc().astimezone()
        outside = not hours.holds(self._spans, local)
        begins = f"{hours.next_begin(self._spans, local):%A %H:%M}" if outside else ""
        await self._hold("hours", outside, f"it is outside of the hours of work; they begin on {begins}")

    async def _hold(self, cause: str, holds: bool, reason: str) -> None:
        if holds:
            await self._pauses.begin(cause, reason)
        else:
            await self._pauses.end(cause)

    def _workers_on_gpu(self) -> list[int]:
        """Processes that have a model there."""
        return [worker.pid for worker in self._pool.status() if worker.pid and worker.model and worker.device != "cpu"]
