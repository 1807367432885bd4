"""From files that appear to pending jobs. Each inbox has one service that looks out and one that lets in, apart from
those of the other inboxes: a share that hangs holds up nothing but itself."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from speakeasyd.clock import Clock
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.drained import Left
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


class Intake:
    """All inboxes. For other settings stop it and start a new one: what was under way is found again."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        pauses: Pauses,
        main_loop: MainLoop,
        clock: Clock,
        anchors: dict[Path, MountAnchor] | None = None,
    ) -> None:
        """`anchors`: what earlier ones remember of the folders' mounts."""
        known = {} if anchors is None else anchors

        def door(inbox: InboxSettings) -> "InboxPipeline":
            return InboxPipeline(
                inbox=inbox,
                anchor=known.setdefault(inbox.path, MountAnchor(inbox.path)),
                settings=settings,
                ledger=ledger,
                pauses=pauses,
                main_loop=main_loop,
                clock=clock,
            )

        self._doors = {inbox.name: door(inbox) for inbox in settings.inboxes}

    async def start(self, failures: ServiceFailures | None = None) -> None:
        """Watch, scan and admit until stopped. Returns at once: an inbox may take its time."""
        for door in self._doors.values():
            await door.lookout.start(failures)
            await door.admission.start(failures)

    async def stop(self) -> None:
        """Idempotent. What has not been added is found again by the next start."""
        for door in self._doors.values():
            await door.lookout.stop()
            await door.admission.stop()

    async def rescan_all(self) -> None:
        """Compare the inboxes with the ledger. Raises InboxMissing. Tests call it; the services do so by themselves."""
        for door in self._doors.values():
            await door.lookout.scan_folder()

    async def run_once(self) -> None:
        """One round for every inbox, in place of the loops that `start` starts."""
        await asyncio.gather(*(door.run_once() for door in self._doors.values()))

    async def admit_file(
        self, inbox: str, files: Sequence[tuple[bytes, str]], changes: Changes, awaited: bool
    ) -> list[AddedJob]:
        """Give files that are known to be complete their jobs at once, all or none; `changes` as in a sidecar.

        `files`: path and SHA-256 of each. Raises FileFault or LedgerError.
        """
        return await self._doors[inbox].admission.admit_file(files, changes, awaited=awaited)

    def is_present(self, inbox: str) -> bool:
        """Whether the inbox is there, and mounted if it was. Blocks."""
        return self._doors[inbox].anchor.is_present()

    def left(self) -> list[Left]:
        """What lies in the inboxes and is not in the ledger, and why not."""
        return [left for door in self._doors.values() for left in door.left()]

    @property
    def untaken(self) -> list[str]:
        """Files that are left out for their extension alone, and what is no regular file."""
        return [str(path) for door in self._doors.values() for path in door.untaken()]

    @property
    def refusal(self) -> str:
        """Why the ledger takes no files just now; empty while it does."""
        return next((door.refusal for door in self._doors.values() if door.refusal), "")

    @property
    def names(self) -> set[str]:
        """Under which its services tell of their failures."""
        return {
            service.name
            for door in self._doors.values()
            for service in (door.lookout, door.admission)
        }

    @property
    def idle(self) -> bool:
        """Whether every file of every inbox that can be read is in the ledger."""
        return all(door.idle for door in self._doors.values())


class InboxPipeline:
    """What belongs to one inbox."""

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
    ) -> None:
        self._root = inbox.path
        self.anchor = anchor
        self._clock = clock
        self._arrivals = Arrivals(settle_s=settings.watch.settle_s, empty_s=settings.watch.empty_s)
        self.admission = Admission(
            inbox=inbox, settings=settings, arrivals=self._arrivals, ledger=ledger, clock=clock
        )
        self.lookout = InboxMonitor(
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
        await self.lookout.run_once()
        await self.admission.run_once()

    @property
    def idle(self) -> bool:
        return self.lookout.idle and self._arrivals.is_idle(self._clock.monotonic())

    @property
    def refusal(self) -> str:
        return self.lookout.refusal or self.admission.refusal

    def left(self) -> Iterator[Left]:
        for path, reason in self._arrivals.unread():
            yield Left(str(self._place(path)), self.refusal or reason)
        for path, reason in self.lookout.unreadable.items():
            yield Left(str(self._place(path)), f"cannot be looked into: {reason}")

    def untaken(self) -> Iterator[Path]:
        return map(self._place, self.lookout.untaken)

    def _place(self, path: bytes) -> Path:
        return self._root / path.decode("utf-8", "backslashreplace")
