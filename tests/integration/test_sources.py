"""What keeps a source where it is, and what becomes of one that changes at the last moment."""

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
from tests.integration.publishing import Place, workshop

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel who writes")


def ended(job: Job) -> EndedJob:
    return EndedJob(job.id, job.path, job.signature, job.sha256)


@pytest.mark.parametrize("sources", ["delete", "archive"])
@pytest.mark.parametrize("kind", list(WarningKind))
async def test_what_is_not_all_in_the_transcript_stays(
    tmp_path: Path, sources: str, kind: WarningKind
) -> None:
    place = Place(tmp_path, sources=sources)
    place.drop("a.mp3")
    async with workshop(place) as shop:
        [job] = await shop.ready("a.mp3", warnings=(MediaWarning(kind, "something"),))
        await shop.publisher.publish_job(job)
        await shop.sources.run_once()
    stays = kind in {WarningKind.CUT, WarningKind.DAMAGED} or (kind, sources) == (
        WarningKind.LEFT_OUT,
        "delete",
    )
    assert (place.written("inbox") == {"a.mp3": "sound of a.mp3"}) is stays


@linux
@pytest.mark.parametrize("sources", ["delete", "archive"])
async def test_what_is_open_for_writing_stays_until_it_is_closed(
    tmp_path: Path, sources: str
) -> None:
    place = Place(tmp_path, sources=sources)
    source = place.drop("talks/a.mp3")
    async with workshop(place) as shop:
        [job] = await shop.ready("talks/a.mp3")
        with shop.hub.subscribe() as events, source.open("ab"):
            await shop.publisher.publish_job(job)
            [kept] = [event for event in events.take_waiting() if event.kind == "source.kept"]
            assert "still open for writing by" in str(kept.data["reason"])
            await shop.sources.run_once()
            assert sorted(place.written("inbox")) == ["talks/a.mp3"]
        await shop.sources.run_once()
    assert place.written("inbox") == {}


async def test_other_bytes_of_the_same_size_and_time_are_not_deleted(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="delete")
    source = place.drop("a.mp3", b"one")
    async with workshop(place) as shop:
        [job] = await shop.ready("a.mp3")
        source.write_bytes(b"two")
        os.utime(source, ns=(job.signature.mtime_ns, job.signature.mtime_ns))
        await shop.publisher.publish_job(job)
    assert place.written("inbox") == {"a.mp3": "two"}


async def test_a_newer_file_that_takes_the_name_meanwhile_costs_neither(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="delete")
    source = place.drop("a.mp3", b"one")
    async with workshop(place) as shop:
        [job] = await shop.ready("a.mp3")
        with _set_aside(place.inbox, ended(job)) as aside:
            assert aside is not None
            assert not source.exists()
            source.write_bytes(b"two")
    assert place.written("inbox") == {"a.mp3": "two", "a (2).mp3": "one"}


@pytest.mark.parametrize("name", ["a.mp3", "no ending", "x" * 200 + ".mp3"])
def test_what_a_crash_left_aside_gets_its_name_back(tmp_path: Path, name: str) -> None:
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / ".a person's own.speakeasyd-aside").touch()
    (tmp_path / "talks" / _make_hidden_name(name)).touch()
    restore_aside(tmp_path)
    assert {path.name for path in (tmp_path / "talks").iterdir()} == {
        name,
        ".a person's own.speakeasyd-aside",
    }


@pytest.mark.parametrize("name", ["x" * 251 + ".mp3", "\u00e9" * 125 + ".mp3", "x." + "y" * 253])
def test_a_name_that_is_too_long_to_be_hidden_is_cut(tmp_path: Path, name: str) -> None:
    (tmp_path / _make_hidden_name(name)).touch()
    restore_aside(tmp_path)
    [restored] = tmp_path.iterdir()
    assert restored.name[:50] == name[:50]
    assert restored.name[-4:] == name[-4:]


def test_a_move_back_that_a_crash_cut_in_two_is_finished(tmp_path: Path) -> None:
    hidden = tmp_path / ".a.mp3.0123abcd.speakeasyd-aside"
    hidden.write_bytes(b"one")
    os.link(hidden, tmp_path / "a.mp3")
    restore_aside(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp3"]


async def test_a_source_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="delete")
    source = place.drop("talks/a.mp3")
    async with workshop(place) as shop:
        [job] = await shop.ready("talks/a.mp3")
        source.unlink()
        source.parent.rmdir()
        assert delete_source(place.inbox, ended(job)) is not None
        with _set_aside(place.inbox, ended(job)) as aside:
            assert isinstance(aside, Kept)
