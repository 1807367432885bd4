"""Jobs that become ready at the same time: published together, or else each alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from speakeasyd.clock import SystemClock
from speakeasyd.domain.job import Job
from speakeasyd.events import EventHub
from speakeasyd.services.held_claims import HeldClaims
from speakeasyd.services.pauses import Pauses
from speakeasyd.services.publications import MOST_TOGETHER, Publications
from speakeasyd.services.publisher import Publisher
from speakeasyd.services.source_faults import SourceFaults
from tests.conftest import PATIENCE_S
from tests.integration.publishing import (
    FORMATS,
    PublicationFolders,
    PublicationSetup,
    open_publication_setup,
)


@pytest.fixture
def folders(tmp_path: Path) -> PublicationFolders:
    return PublicationFolders(tmp_path)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths of the jobs in each call of the publisher."""
    publish, seen = Publisher.publish_jobs, list[list[str]]()

    async def record_group(self: Publisher, jobs: Sequence[Job]) -> None:
        seen.append([job.path.decode() for job in jobs])
        await publish(self, jobs)

    monkeypatch.setattr(Publisher, "publish_jobs", record_group)
    return seen


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
        publications = open_publications(setup)
        jobs = await setup.prepare_jobs(*paths)
        chosen = [job.id for job in jobs if job.path.decode() in cancelled]
        await setup.ledger.cancel_jobs(chosen)
        for job in jobs:
            await publications.start_when_final(job, frozenset())
        assert all(job.token in publications for job in jobs)
        await publications.wait_all(PATIENCE_S)
        assert not any(job.token in publications for job in jobs)
        return await setup.read_statuses()


async def test_jobs_that_are_ready_at_the_same_time_are_published_together(
    folders: PublicationFolders, groups: list[list[str]]
) -> None:
    paths = [f"{number}.mp3" for number in range(MOST_TOGETHER + 2)]
    statuses = await publish_at_once(folders, paths)
    assert set(statuses.values()) == {"completed"}
    assert groups == [paths[:MOST_TOGETHER], paths[MOST_TOGETHER:]]


async def test_a_name_that_is_refused_fails_only_its_job(
    folders: PublicationFolders, groups: list[list[str]]
) -> None:
    folders.outbox.mkdir()
    (folders.outbox / "talks").write_text("not a folder")
    paths = ["a.mp3", "talks/b.mp3", "c.mp3"]
    statuses = await publish_at_once(folders, paths)
    assert statuses == {"a.mp3": "completed", "talks/b.mp3": "failed", "c.mp3": "completed"}
    assert groups == [paths, ["a.mp3"], ["talks/b.mp3"], ["c.mp3"]]


async def test_a_lost_claim_does_not_concern_the_other_jobs(
    folders: PublicationFolders, groups: list[list[str]]
) -> None:
    paths = ["a.mp3", "b.mp3", "c.mp3"]
    statuses = await publish_at_once(folders, paths, cancelled=["b.mp3"])
    assert statuses == {"a.mp3": "completed", "b.mp3": "cancelled", "c.mp3": "completed"}
    assert sorted(folders.read_files()) == sorted(
        f"{name}.{ending}" for name in "ac" for ending in FORMATS
    )
