"""The intake: from new files to pending jobs.

Each inbox has its own monitor and admission, so that a share that hangs blocks no other inbox.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.drained import UnfinishedFile
from speakeasyd.domain.job import AddedJob
from speakeasyd.domain.presets import Changes
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.loop import MainLoop
from speakeasyd.mounts import MountAnchor
from speakeasyd.services.admission import Admission
from speakeasyd.services.arrivals import Arrivals
from speakeasyd.services.failures import ServiceFailures
from speakeasyd.services.inbox_monitor import InboxMonitor
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.uploads_under_way import UploadsUnderWay


class Intake:
    """The pipelines of all inboxes.

    To change the settings, stop it and start a new one: files in progress are found again.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        pauses: Pauses,
        main_loop: MainLoop,
        clock: Clock,
        anchors: dict[Path, MountAnchor] | None = None,
        uploads: UploadsUnderWay | None = None,
    ) -> None:
        """Create the pipelines.

        `anchors`: mount state of the folders from an earlier intake. `uploads`: those of the
        server.
        """
        uploads = uploads or UploadsUnderWay()
        known = {} if anchors is None else anchors

        def build_pipeline(inbox: InboxSettings) -> "InboxPipeline":
            return InboxPipeline(
                inbox=inbox,
                anchor=known.setdefault(inbox.path, MountAnchor(inbox.path)),
                settings=settings,
                ledger=ledger,
                pauses=pauses,
                main_loop=main_loop,
                clock=clock,
                uploads=uploads,
            )

        self._pipelines = {inbox.name: build_pipeline(inbox) for inbox in settings.inboxes}

    async def start(self, failures: ServiceFailures | None = None) -> None:
        """Start all services. Returns at once, since an inbox may be slow to answer."""
        for pipeline in self._pipelines.values():
            await pipeline.monitor.start(failures)
            await pipeline.admission.start(failures)

    async def stop(self) -> None:
        """Stop all services. Idempotent. Files that were not added are found by the next start."""
        for pipeline in self._pipelines.values():
            await pipeline.monitor.stop()
            await pipeline.admission.stop()

    async def rescan_all(self) -> None:
        """Scan all inboxes now. Raises InboxMissing. For tests: the services scan by themselves."""
        for pipeline in self._pipelines.values():
            await pipeline.monitor.scan_folder()

    async def run_once(self) -> None:
        """Run one round for every inbox, instead of the loops of `start`."""
        await asyncio.gather(*(pipeline.run_once() for pipeline in self._pipelines.values()))

    async def admit_file(
        self,
        inbox: str,
        files: Sequence[tuple[bytes, str]],
        changes: Changes,
        awaited: bool,
        upload: str,
    ) -> list[AddedJob]:
        """Add jobs for files that are known to be complete, in one transaction: all or none.

        `files`: path and SHA-256 of each. `changes`: options as in a sidecar. `awaited`: a client
        waits for the text. `upload`: key of the upload. Raises FileFault or LedgerError.
        """
        return await self._pipelines[inbox].admission.admit_file(
            files, changes, upload=upload, awaited=awaited
        )

    def is_present(self, inbox: str) -> bool:
        """Return whether the inbox is present and its filesystem mounted. Blocks."""
        return self._pipelines[inbox].anchor.is_present()

    def list_unfinished(self) -> list[UnfinishedFile]:
        """Return the files in the inboxes that are not in the ledger, and why not."""
        return [
            file for pipeline in self._pipelines.values() for file in pipeline.list_unfinished()
        ]

    @property
    def untaken(self) -> list[str]:
        """Files that are ignored: unknown extension, or not a regular file."""
        return [str(path) for pipeline in self._pipelines.values() for path in pipeline.untaken()]

    @property
    def refusal(self) -> str:
        """Why the ledger accepts no files now; empty while it does."""
        return next(
            (pipeline.refusal for pipeline in self._pipelines.values() if pipeline.refusal), ""
        )

    @property
    def names(self) -> set[str]:
        """The names under which its services report failures."""
        return {
            service.name
            for pipeline in self._pipelines.values()
            for service in (pipeline.monitor, pipeline.admission)
        }

    @property
    def idle(self) -> bool:
        """Return whether every readable file of every inbox is in the ledger."""
        return all(pipeline.idle for pipeline in self._pipelines.values())


class InboxPipeline:
    """The monitor, the arrivals and the admission of one inbox."""

    def __init__(
        self,
        *,
        inbox: InboxSettings,
        anchor: MountAnchor,
        settings: Settings,
        ledger: Ledger,
        pauses: Pauses,
        main_loop: MainLoop,
        clock: Clock,
        uploads: UploadsUnderWay,
    ) -> None:
        self._root = inbox.path
        self.anchor = anchor
        self._clock = clock
        self._arrivals = Arrivals(settle_s=settings.watch.settle_s, empty_s=settings.watch.empty_s)
        self.admission = Admission(
            inbox=inbox,
            settings=settings,
            arrivals=self._arrivals,
            ledger=ledger,
            clock=clock,
            uploads=uploads,
        )
        self.monitor = InboxMonitor(
            inbox=inbox,
            anchor=anchor,
            settings=settings,
            arrivals=self._arrivals,
            admission=self.admission,
            ledger=ledger,
            pauses=pauses,
            main_loop=main_loop,
            clock=clock,
        )

    async def run_once(self) -> None:
        await self.monitor.run_once()
        await self.admission.run_once()

    @property
    def idle(self) -> bool:
        return self.monitor.idle and self._arrivals.is_idle(self._clock.monotonic())

    @property
    def refusal(self) -> str:
        return self.monitor.refusal or self.admission.refusal

    def list_unfinished(self) -> Iterator[UnfinishedFile]:
        for path, reason in self._arrivals.unread():
            yield UnfinishedFile(str(self._build_path(path)), self.refusal or reason)
        for path, reason in self.monitor.unreadable.items():
            yield UnfinishedFile(str(self._build_path(path)), f"cannot be read: {reason}")

    def untaken(self) -> Iterator[Path]:
        return map(self._build_path, self.monitor.untaken)

    def _build_path(self, path: bytes) -> Path:
        return self._root / path.decode("utf-8", "backslashreplace")
