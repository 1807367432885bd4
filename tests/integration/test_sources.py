"""Disposal of sources: which are kept, and changes at the last moment."""

import os
import sys
from pathlib import Path

import pytest

from speakeasyd.domain.job import EndedJob, Job
from speakeasyd.domain.transcript import MediaWarning, WarningKind
from speakeasyd.outbox.source_folder import (
    Kept,
    _make_hidden_name,
    _set_aside,
    delete_source,
    restore_aside,
)
from tests.integration.publishing import PublicationFolders, open_publication_setup

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel who writes")


def build_ended_job(job: Job) -> EndedJob:
    return EndedJob(job.id, job.path, job.signature, job.sha256)


@pytest.mark.parametrize("sources", ["delete", "archive"])
@pytest.mark.parametrize("kind", list(WarningKind))
async def test_a_source_with_missing_content_is_kept(
    tmp_path: Path, sources: str, kind: WarningKind
) -> None:
    folders = PublicationFolders(tmp_path, sources=sources)
    folders.create_source("a.mp3")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("a.mp3", warnings=(MediaWarning(kind, "something"),))
        await setup.publisher.publish_job(job)
        await setup.sources.run_once()
    stays = kind in {WarningKind.CUT, WarningKind.DAMAGED} or (kind, sources) == (
        WarningKind.LEFT_OUT,
        "delete",
    )
    assert (folders.read_files("inbox") == {"a.mp3": "sound of a.mp3"}) is stays


@linux
@pytest.mark.parametrize("sources", ["delete", "archive"])
async def test_a_source_is_kept_while_it_is_open_for_writing(tmp_path: Path, sources: str) -> None:
    folders = PublicationFolders(tmp_path, sources=sources)
    source = folders.create_source("talks/a.mp3")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("talks/a.mp3")
        with setup.hub.subscribe() as events, source.open("ab"):
            await setup.publisher.publish_job(job)
            [kept] = [event for event in events.take_waiting() if event.kind == "source.kept"]
            assert "still open for writing by" in str(kept.data["reason"])
            await setup.sources.run_once()
            assert sorted(folders.read_files("inbox")) == ["talks/a.mp3"]
        await setup.sources.run_once()
    assert folders.read_files("inbox") == {}


async def test_different_bytes_of_equal_size_and_time_are_not_deleted(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="delete")
    source = folders.create_source("a.mp3", b"one")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("a.mp3")
        source.write_bytes(b"two")
        os.utime(source, ns=(job.signature.mtime_ns, job.signature.mtime_ns))
        await setup.publisher.publish_job(job)
    assert folders.read_files("inbox") == {"a.mp3": "two"}


async def test_a_new_file_during_the_disposal_is_kept_beside_the_old(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="delete")
    source = folders.create_source("a.mp3", b"one")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("a.mp3")
        with _set_aside(folders.inbox, build_ended_job(job)) as aside:
            assert aside is not None
            assert not source.exists()
            source.write_bytes(b"two")
    assert folders.read_files("inbox") == {"a.mp3": "two", "a (2).mp3": "one"}


@pytest.mark.parametrize("name", ["a.mp3", "no ending", "x" * 200 + ".mp3"])
def test_a_hidden_source_gets_its_name_back_after_a_crash(tmp_path: Path, name: str) -> None:
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / ".a person's own.speakeasyd-aside").touch()
    (tmp_path / "talks" / _make_hidden_name(name)).touch()
    restore_aside(tmp_path)
    assert {path.name for path in (tmp_path / "talks").iterdir()} == {
        name,
        ".a person's own.speakeasyd-aside",
    }


@pytest.mark.parametrize("name", ["x" * 251 + ".mp3", "\u00e9" * 125 + ".mp3", "x." + "y" * 253])
def test_a_long_name_is_shortened_when_hidden(tmp_path: Path, name: str) -> None:
    (tmp_path / _make_hidden_name(name)).touch()
    restore_aside(tmp_path)
    [restored] = tmp_path.iterdir()
    assert restored.name[:50] == name[:50]
    assert restored.name[-4:] == name[-4:]


def test_an_interrupted_restoration_is_completed(tmp_path: Path) -> None:
    hidden = tmp_path / ".a.mp3.0123abcd.speakeasyd-aside"
    hidden.write_bytes(b"one")
    os.link(hidden, tmp_path / "a.mp3")
    restore_aside(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp3"]


async def test_a_missing_source_is_accepted(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="delete")
    source = folders.create_source("talks/a.mp3")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("talks/a.mp3")
        source.unlink()
        source.parent.rmdir()
        assert delete_source(folders.inbox, build_ended_job(job)) is not None
        with _set_aside(folders.inbox, build_ended_job(job)) as aside:
            assert isinstance(aside, Kept)
