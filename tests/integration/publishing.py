"""Publishes jobs with a real ledger, in the test process or in a child process."""

import asyncio
import ctypes
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from speakeasyd.clock import SystemClock
from speakeasyd.config import InboxSettings, Settings
from speakeasyd.domain.event_payloads import JobNoted
from speakeasyd.domain.job import Job, NewJob, Signature
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Chunk, MediaWarning, Segment, TranscribedTrack
from speakeasyd.durable import TEMPORARY
from speakeasyd.errors import LedgerUnwritable, OutboxUnavailable
from speakeasyd.events import EventHub
from speakeasyd.ledger.claims import claim_jobs
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import release_stale_claims
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import Transcribed, store_results
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_disposal import SourceDisposal

FORMATS = ("txt", "srt", "json")
OUTAGE = 3  # exit status if the outbox is not writable
PR_SET_PTRACER, ANYBODY = 0x59616D61, -1  # for prctl(2)


@dataclass(frozen=True, slots=True)
class PublicationFolders:
    """The folders of one inbox, and the setting for its sources."""

    root: Path
    sources: str = "keep"
    failed: bool = False

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def outbox(self) -> Path:
        return self.root / "outbox"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def settings(self) -> Settings:
        inbox = InboxSettings.model_validate(
            {
                "name": "in",
                "path": self.inbox,
                "outbox": self.outbox,
                "sources": self.sources,
                "archive": self.archive,
                "failed": self.root / "failed" if self.failed else None,
            }
        )
        return Settings(state=self.root / "state", inboxes=(inbox,))

    def create_source(self, path: str, data: bytes | None = None) -> Path:
        source = self.inbox / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(
            f"sound of {path}".encode("utf-8", "surrogateescape") if data is None else data
        )
        return source

    def read_files(self, folder: str = "outbox") -> dict[str, str]:
        """Return the text of every file in a folder, by relative path."""
        top = self.root / folder
        return {
            path.relative_to(top).as_posix(): path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(top.rglob("*"))
            if path.is_file() or path.is_symlink()
        }

    def list_temporary_files(self) -> list[Path]:
        return [path for path in self.root.rglob(".*") if TEMPORARY.fullmatch(path.name)]


@dataclass(frozen=True, slots=True)
class PublicationSetup:
    folders: PublicationFolders
    ledger: Ledger
    publisher: Publisher
    sources: SourceDisposal
    outboxes: Outboxes
    hub: EventHub

    async def prepare_jobs(
        self,
        *paths: str,
        text: str = " It is done.",
        options: Options | None = None,
        warnings: tuple[MediaWarning, ...] = (),
        tracks: tuple[TranscribedTrack, ...] = (),
    ) -> list[Job]:
        """Add files as jobs in this order, claim them and commit all their chunks."""
        wanted = [
            build_new_job(self.folders, path, options or Options(formats=FORMATS)) for path in paths
        ]
        added = [one.job_id for one in await self.ledger.write(add_jobs, wanted)]
        claimed = {job.id: job for job in await self.claim_all_jobs()}
        jobs = [claimed[job_id] for job_id in added if job_id in claimed]
        for job in jobs:
            await self.commit_transcript(job, text, *warnings, tracks=tracks)
        return jobs

    async def claim_all_jobs(self) -> list[Job]:
        jobs: list[Job] = []
        while some := await self.ledger.write(claim_jobs, 100):
            jobs += some
        return jobs

    async def commit_transcript(
        self,
        job: Job,
        text: str,
        *warnings: MediaWarning,
        tracks: tuple[TranscribedTrack, ...] = (),
    ) -> None:
        """Commit the text as a segment. Each track gets the text and its number."""
        spoken = [(track.number, f"{text} {track.number}") for track in tracks] or [(None, text)]
        for index, (number, words) in enumerate(spoken):
            segment = Segment(0.0, 2.0, words, -0.2, 1.1, 0.01, track=number)
            chunk = Chunk(index, 0.0, 2.0, (segment,), track=number)
            await self.ledger.write(store_results, [(job.id, job.token, chunk)])
        await self.ledger.write(
            store_results,
            [(job.id, job.token, JobNoted(language="en", model="tiny.en", device="cpu"))],
        )
        await self.ledger.write(
            store_results,
            [(job.id, job.token, Transcribed(audio_seconds=2.0, warnings=warnings, tracks=tracks))],
        )

    async def read_statuses(self) -> dict[str, str]:
        rows = query_readonly(
            self.ledger.path, "SELECT path, status FROM job_status ORDER BY job_id"
        )
        return {str(row["path"]): str(row["status"]) for row in rows}


def build_new_job(folders: PublicationFolders, path: str, options: Options) -> NewJob:
    source = folders.inbox / path
    return NewJob(
        inbox="in",
        path=path.encode("utf-8", "surrogateescape"),
        signature=Signature.of(source.lstat()),
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        options=options,
        preset=None,
        batch="today",
    )


@asynccontextmanager
async def open_publication_setup(
    folders: PublicationFolders, *, boot_id: str = "boot"
) -> AsyncIterator[PublicationSetup]:
    path = folders.root / "state" / "ledger.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    migrate_ledger(path)
    hub, clock = EventHub(), SystemClock()
    ledger = await Ledger.open(path, clock=clock, hub=hub, boot_id=boot_id)
    try:
        sources = SourceDisposal(ledger=ledger, settings=folders.settings, hub=hub, clock=clock)
        outboxes = Outboxes(
            inboxes=folders.settings.inboxes, pauses=Pauses(ledger=ledger, hub=hub, clock=clock)
        )
        await outboxes.prepare_folders()
        publisher = Publisher(ledger=ledger, outboxes=outboxes, sources=sources)
        yield PublicationSetup(folders, ledger, publisher, sources, outboxes, hub)
    finally:
        await ledger.close()


async def publish_all_jobs(folders: PublicationFolders, boot_id: str) -> None:
    """Publish as a daemon does after a restart."""
    async with open_publication_setup(folders, boot_id=boot_id) as setup:
        await setup.ledger.write(release_stale_claims)
        jobs = await setup.claim_all_jobs()
        await asyncio.gather(*map(setup.publisher.publish_job, jobs))
        await setup.sources.run_once()


def run_publisher_child(
    folders: PublicationFolders, boot_id: str, start_signal: Connection
) -> None:
    """Run the child process. It waits for a message and exits with 0 or OUTAGE."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            PR_SET_PTRACER, ANYBODY, 0, 0, 0
        )  # some systems allow only ancestors to trace
    start_signal.recv()
    try:
        asyncio.run(publish_all_jobs(folders, boot_id))
    except (OutboxUnavailable, LedgerUnwritable):
        sys.exit(OUTAGE)
