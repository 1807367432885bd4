"""The services whose settings may change at run time: a reload replaces them."""

from collections.abc import Sequence
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.config import PoliteSettings, Settings
from speakeasyd.domain.job import AddedJob
from speakeasyd.domain.presets import Changes
from speakeasyd.domain.worker_pool import WorkerPool
from speakeasyd.events import EventHub
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.readonly import LEDGER
from speakeasyd.loop import MainLoop
from speakeasyd.mounts import MountAnchor
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.intake import Intake
from speakeasyd.services.janitor import Janitor
from speakeasyd.services.notifier import Notifier
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.resource_guard import ResourceGuard
from speakeasyd.services.uploads_under_way import UploadsUnderWay


class ReloadableServices:
    """Janitor, resource guard, notifier and intake, built from the current settings."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        hub: EventHub,
        pauses: Pauses,
        failures: ServiceFailures,
        pool: WorkerPool,
        main_loop: MainLoop,
        clock: Clock,
        wait_for_fixes: bool,
    ) -> None:
        """Create the services. Without `wait_for_fixes`, work waits for no hours and no memory."""
        self._ledger = ledger
        self._hub = hub
        self._pauses = pauses
        self._failures = failures
        self._pool = pool
        self._main_loop = main_loop
        self._clock = clock
        self._wait_for_fixes = wait_for_fixes
        self._anchors: dict[Path, MountAnchor] = {}  # mount state, kept over reloads
        self.uploads = UploadsUnderWay()
        self.settings = settings
        self.intake, self._services = self._build_services(settings)

    def current_settings(self) -> Settings:
        return self.settings

    async def start(self) -> None:
        for service in self._services:
            await service.start(self._failures)

    async def stop(self) -> None:
        """Stop the current services. Idempotent."""
        for service in reversed(self._services):
            await service.stop()

    async def replace_services(self, settings: Settings) -> None:
        """Stop the services and start others with these settings."""
        await self.stop()
        self.settings = settings
        self.intake, self._services = self._build_services(settings)
        await self.start()

    def _build_services(
        self, settings: Settings
    ) -> tuple[Intake, Sequence[Janitor | ResourceGuard | Notifier | Intake]]:
        """Return the intake, and all services in the order of their start."""
        janitor = Janitor(
            path=settings.state / LEDGER,
            ledger=self._ledger,
            settings=settings.ledger,
            clock=self._clock,
        )
        resource_guard = ResourceGuard(
            settings=settings.polite if self._wait_for_fixes else PoliteSettings(),
            pauses=self._pauses,
            pool=self._pool,
            clock=self._clock,
        )
        notifier = Notifier(
            settings=settings, ledger=self._ledger, hub=self._hub, clock=self._clock
        )
        intake = Intake(
            settings=settings,
            ledger=self._ledger,
            pauses=self._pauses,
            main_loop=self._main_loop,
            clock=self._clock,
            anchors=self._anchors,
            uploads=self.uploads,
        )
        return intake, (janitor, resource_guard, notifier, intake)

    async def admit_file(
        self,
        inbox: str,
        files: Sequence[tuple[bytes, str]],
        changes: Changes,
        awaited: bool,
        upload: str,
    ) -> list[AddedJob]:
        """As `Intake.admit_file`, of the current intake."""
        return await self.intake.admit_file(inbox, files, changes, awaited, upload)

    def is_present(self, inbox: str) -> bool:
        """As `Intake.is_present`, of the current intake."""
        return self.intake.is_present(inbox)
