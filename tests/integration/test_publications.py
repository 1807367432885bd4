"""Jobs that become ready at the same time: they are published together, or else each alone."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.transcript import WarningKind
from speakeasyd.events import EventHub
from speakeasyd.services import publications
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publications import Publications
from speakeasyd.services.publisher import MOST_TOGETHER
from speakeasyd.services.source_faults import SourceFaults
from tests.conftest import PATIENCE_S
from tests.integration.publishing import (
    FORMATS,
    PublicationFolders,
    PublicationSetup,
    open_publication_setup,
)
from tests.ledgers import query_ledger

COMPLETED, FAILED = EventKind.JOB_COMPLETED, EventKind.JOB_FAILED


@pytest.fixture
def folders(tmp_path: Path) -> PublicationFolders:
    return PublicationFolders(tmp_path)


def open_publications(setup: PublicationSetup) -> Publications:
    clock, settings = SystemClock(), setup.folders.settings
    claims = HeldClaims(
        ledger=setup.ledger,
        publisher=setup.publisher,
        backoff=settings.recovery,
        clock=clock,
        on_end=lambda _job: None,
    )
    source_faults = SourceFaults(
        claims=claims,
        roots={"in": setup.folders.inbox},
        incomplete_max_s=1.0,
        clock=clock,
        wait_for_fixes=False,
    )
    return Publications(
        claims=claims,
        publisher=setup.publisher,
        outboxes=setup.outboxes,
        pauses=Pauses(ledger=setup.ledger, hub=EventHub(), clock=clock),
        source_faults=source_faults,
    )


async def publish_at_once(
    folders: PublicationFolders, paths: Sequence[str], *, cancelled: Sequence[str] = ()
) -> dict[str, str]:
    """Publish jobs that become ready at the same time. Returns the status of each path.

    `cancelled`: those that a person cancels before.
    """
    for path in paths:
        folders.create_source(path)
    async with open_publication_setup(folders) as setup:
        publishing = open_publications(setup)
        jobs = await setup.prepare_jobs(*paths)
        chosen = [job.id for job in jobs if job.path.decode() in cancelled]
        await setup.ledger.cancel_jobs(chosen)
        for job in jobs:
            await publishing.start_when_final(job, frozenset())
        assert all(job.token in publishing for job in jobs)
        await publishing.wait_all(PATIENCE_S)
        assert not any(job.token in publishing for job in jobs)
        return await setup.read_statuses()


async def test_jobs_that_are_ready_at_the_same_time_are_published_together(
    folders: PublicationFolders,
) -> None:
    paths = [f"{number}.mp3" for number in range(MOST_TOGETHER)]
    statuses = await publish_at_once(folders, paths)
    assert set(statuses.values()) == {"completed"}
    times = query_ledger(folders.root / "state", "SELECT DISTINCT finished_at FROM jobs")
    assert len(times) == 1, "they were completed in one transaction"


async def test_a_name_that_is_refused_fails_only_its_job(folders: PublicationFolders) -> None:
    folders.outbox.mkdir()
    (folders.outbox / "talks").write_text("not a folder")
    statuses = await publish_at_once(folders, ["a.mp3", "talks/b.mp3", "c.mp3"])
    assert statuses == {"a.mp3": "completed", "talks/b.mp3": "failed", "c.mp3": "completed"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
async def test_a_folder_that_is_a_link_does_not_delay_the_other_jobs(
    folders: PublicationFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publications, "RETRY_S", 0.0)
    folders.outbox.mkdir()
    (folders.outbox / "talks").symlink_to(folders.root)
    statuses = await publish_at_once(folders, ["a.mp3", "talks/b.mp3", "c.mp3"])
    assert statuses == {"a.mp3": "completed", "talks/b.mp3": "failed", "c.mp3": "completed"}
    [order] = query_ledger(
        folders.root / "state",
        "SELECT json_group_array(kind) AS kinds FROM events WHERE kind LIKE 'job.%ed' ORDER BY seq",
    )
    kinds = [kind for kind in json.loads(str(order["kinds"])) if kind in {COMPLETED, FAILED}]
    assert kinds == [COMPLETED, COMPLETED, FAILED], "at once, not with the next tries"


async def test_a_lost_claim_does_not_concern_the_other_jobs(folders: PublicationFolders) -> None:
    paths = ["a.mp3", "b.mp3", "c.mp3"]
    statuses = await publish_at_once(folders, paths, cancelled=["b.mp3"])
    assert statuses == {"a.mp3": "completed", "b.mp3": "cancelled", "c.mp3": "completed"}
    assert sorted(folders.read_files()) == sorted(
        f"{name}.{ending}" for name in "ac" for ending in FORMATS
    )


async def test_an_end_that_is_reported_twice_is_published_once(folders: PublicationFolders) -> None:
    folders.create_source("a.mp3")
    async with open_publication_setup(folders) as setup:
        publishing = open_publications(setup)
        [job] = await setup.prepare_jobs("a.mp3")
        cut = frozenset({WarningKind.CUT})
        await asyncio.gather(*(publishing.start_when_final(job, cut) for _ in range(2)))
        await publishing.wait_all(PATIENCE_S)
    assert sorted(folders.read_files()) == sorted(f"a.{ending}" for ending in FORMATS)
