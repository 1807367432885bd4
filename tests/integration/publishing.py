"""A place with a real ledger in which jobs are ready to be published, and a process that publishes them."""

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
from speakeasyd.ledger.claims import claim_jobs, update_claimed_job
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.maintenance import release_stale_claims
from speakeasyd.ledger.migrate import migrate_ledger
from speakeasyd.ledger.new_jobs import add_jobs
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.results import mark_transcribed, store_chunks
from speakeasyd.services.outboxes import Outboxes
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_disposal import SourceDisposal

FORMATS = ("txt", "srt", "json")
OUTAGE = 3  # exit status: the outbox could not be written
PR_SET_PTRACER, ANYBODY = 0x59616D61, -1  # of prctl(2)


@dataclass(frozen=True, slots=True)
class Place:
    """Folders of one inbox, and what is done with its sources."""

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

    def drop(self, path: str, data: bytes | None = None) -> Path:
        source = self.inbox / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(
            f"sound of {path}".encode("utf-8", "surrogateescape") if data is None else data
        )
        return source

    def written(self, folder: str = "outbox") -> dict[str, str]:
        """Every file of a folder with its text."""
        top = self.root / folder
        return {
            path.relative_to(top).as_posix(): path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(top.rglob("*"))
            if path.is_file() or path.is_symlink()
        }

    def temporaries(self) -> list[Path]:
        return [path for path in self.root.rglob(".*") if TEMPORARY.fullmatch(path.name)]


@dataclass(frozen=True, slots=True)
class Workshop:
    place: Place
    ledger: Ledger
    publisher: Publisher
    sources: SourceDisposal
    outboxes: Outboxes
    hub: EventHub

    async def ready(
        self,
        *paths: str,
        text: str = " It is done.",
        options: Options | None = None,
        warnings: tuple[MediaWarning, ...] = (),
        tracks: tuple[TranscribedTrack, ...] = (),
    ) -> list[Job]:
        """Files in the inbox become jobs, in this order, claimed, all their chunks committed."""
        wanted = [new_job(self.place, path, options or Options(formats=FORMATS)) for path in paths]
        added = [one.job_id for one in await self.ledger.write(add_jobs, wanted)]
        claimed = {job.id: job for job in await self.claimed()}
        jobs = [claimed[job_id] for job_id in added if job_id in claimed]
        for job in jobs:
            await self.transcribed(job, text, *warnings, tracks=tracks)
        return jobs

    async def claimed(self) -> list[Job]:
        jobs: list[Job] = []
        while some := await self.ledger.write(claim_jobs, 100):
            jobs += some
        return jobs

    async def transcribed(
        self,
        job: Job,
        text: str,
        *warnings: MediaWarning,
        tracks: tuple[TranscribedTrack, ...] = (),
    ) -> None:
        """Each track says the text and its number."""
        spoken = [(track.number, f"{text} {track.number}") for track in tracks] or [(None, text)]
        for index, (number, words) in enumerate(spoken):
            segment = Segment(0.0, 2.0, words, -0.2, 1.1, 0.01, track=number)
            chunk = Chunk(index, 0.0, 2.0, (segment,), track=number)
            await self.ledger.write(store_chunks, [(job.id, job.token, chunk)])
        await self.ledger.write(
            update_claimed_job,
            job.id,
            job.token,
            JobNoted(language="en", model="tiny.en", device="cpu"),
        )
        await self.ledger.write(
            mark_transcribed, job.id, job.token, audio_seconds=2.0, warnings=warnings, tracks=tracks
        )

    async def statuses(self) -> dict[str, str]:
        rows = query_readonly(
            self.ledger.path, "SELECT path, status FROM job_status ORDER BY job_id"
        )
        return {str(row["path"]): str(row["status"]) for row in rows}


def new_job(place: Place, path: str, options: Options) -> NewJob:
    source = place.inbox / path
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
async def workshop(place: Place, *, boot_id: str = "boot") -> AsyncIterator[Workshop]:
    path = place.root / "state" / "ledger.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    migrate_ledger(path)
    hub, clock = EventHub(), SystemClock()
    ledger = await Ledger.open(path, clock=clock, hub=hub, boot_id=boot_id)
    try:
        sources = SourceDisposal(ledger=ledger, settings=place.settings, hub=hub, clock=clock)
        outboxes = Outboxes(
            inboxes=place.settings.inboxes, pauses=Pauses(ledger=ledger, hub=hub, clock=clock)
        )
        await outboxes.prepare_folders()
        publisher = Publisher(ledger=ledger, outboxes=outboxes, sources=sources)
        yield Workshop(place, ledger, publisher, sources, outboxes, hub)
    finally:
        await ledger.close()


async def publish_all(place: Place, boot_id: str) -> None:
    """What a daemon does after a restart, as far as publication goes."""
    async with workshop(place, boot_id=boot_id) as shop:
        await shop.ledger.write(release_stale_claims)
        for job in await shop.claimed():
            await shop.publisher.publish_job(job)
        await shop.sources.run_once()


def publish_when_told(place: Place, boot_id: str, told: Connection) -> None:
    """The whole of a child process. Exits with 0, or OUTAGE."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(
            PR_SET_PTRACER, ANYBODY, 0, 0, 0
        )  # else some systems let only ancestors trace it
    told.recv()
    try:
        asyncio.run(publish_all(place, boot_id))
    except (OutboxUnavailable, LedgerUnwritable):
        sys.exit(OUTAGE)
