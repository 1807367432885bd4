"""JobArtifacts from the ledger to durable files: names, outages, retries and sources."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from speakeasyd.domain.formats import FORMATS as ALL_FORMATS
from speakeasyd.domain.job import EndedJob
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import TranscribedTrack
from speakeasyd.errors import ClaimLost, ErrorCode, FileFault, OutboxUnavailable
from speakeasyd.events import Event, Subscription
from speakeasyd.ledger.claims import fail_job
from speakeasyd.ledger.publication import JobArtifacts, complete_jobs, load_transcript
from speakeasyd.ledger.readonly import find_matching_jobs, query_readonly
from speakeasyd.ledger.transitions import split_into_slices
from speakeasyd.outbox.publish import Outbox
from tests.integration.publishing import FORMATS, PublicationFolders, open_publication_setup

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names and links")


@pytest.fixture
def folders(tmp_path: Path) -> PublicationFolders:
    return PublicationFolders(tmp_path)


async def test_every_format_is_written_and_its_hash_is_stored(folders: PublicationFolders) -> None:
    folders.create_source("talks/monday.mp3")
    formats = tuple(ALL_FORMATS)
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("talks/monday.mp3", options=Options(formats=formats))
        await setup.publisher.publish_job(job)
        rows = query_readonly(
            setup.ledger.path,
            "SELECT format, path, sha256, bytes, written_at FROM artifacts ORDER BY id",
        )
        assert await setup.read_statuses() == {"talks/monday.mp3": "completed"}
    assert {row["path"] for row in rows} == {f"talks/monday.{ending}" for ending in formats}
    assert rows[-1]["format"] == "json", "a reader that waits for the json finds the others"
    for row in rows:
        data = (folders.outbox / str(row["path"])).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (row["sha256"], row["bytes"])
        assert row["written_at"]
    assert folders.read_files()["talks/monday.txt"] == "It is done.\n"
    assert json.loads(folders.read_files()["talks/monday.json"])["source"] == "monday.mp3"
    assert folders.list_temporary_files() == []


@pytest.mark.parametrize("together", [1, 4])
async def test_sources_with_equal_stems_get_different_names(
    folders: PublicationFolders, together: int
) -> None:
    names = ["a.mp3", "a.wav", "A.ogg", "a.flac"]
    for name in names:
        folders.create_source(name)
    async with open_publication_setup(folders) as setup:
        jobs = await setup.prepare_jobs(*names, options=Options(formats=("txt",)))
        for some in split_into_slices(jobs, together):
            await asyncio.gather(*map(setup.publisher.publish_job, some))
    assert sorted(folders.read_files()) == ["A.ogg.txt", "a.flac.txt", "a.txt", "a.wav.txt"]


async def test_a_reserved_name_is_not_used_again(folders: PublicationFolders) -> None:
    folders.create_source("a.mp3")
    folders.create_source("a.wav")
    async with open_publication_setup(folders) as setup:
        first, second = await setup.prepare_jobs(
            "a.mp3", "a.wav", options=Options(formats=("txt",))
        )
        outbox = folders.outbox
        folders.outbox.rmdir()
        with pytest.raises(OutboxUnavailable):
            await setup.publisher.publish_job(first)
        outbox.mkdir()
        await setup.publisher.publish_job(second)
        await setup.publisher.publish_job(first)
    assert sorted(folders.read_files()) == ["a.mp3.txt", "a.txt"]


async def test_existing_files_in_the_outbox_are_kept(folders: PublicationFolders) -> None:
    folders.create_source("memo.mp3")
    folders.outbox.mkdir()
    (folders.outbox / "memo.srt").write_text("a person's own")
    (folders.outbox / "memo.mp3.json").mkdir()
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("memo.mp3")
        await setup.publisher.publish_job(job)
    assert folders.read_files()["memo.srt"] == "a person's own"
    assert sorted(folders.read_files()) == [
        "memo (2).json",
        "memo (2).srt",
        "memo (2).txt",
        "memo.srt",
    ]


async def test_a_retry_replaces_its_files_but_no_edited_ones(
    folders: PublicationFolders,
) -> None:
    folders.create_source("memo.mp3")
    folders.create_source("note.mp3")
    async with open_publication_setup(folders) as setup:
        for job in await setup.prepare_jobs(
            "memo.mp3", "note.mp3", options=Options(formats=("txt", "srt"))
        ):
            await setup.publisher.publish_job(job)
        (folders.outbox / "note.txt").write_text("It is done, and corrected.\n")
        await setup.ledger.retry_jobs(find_matching_jobs(setup.ledger.path, "1"))
        for job in await setup.claim_all_jobs():
            await setup.commit_transcript(job, " It is done better.")
            await setup.publisher.publish_job(job)
    assert folders.read_files()["memo.txt"] == "It is done better.\n"
    assert folders.read_files()["note.txt"] == "It is done, and corrected.\n"
    assert sorted(folders.read_files()) == [
        "memo.srt",
        "memo.txt",
        "note.mp3.srt",
        "note.mp3.txt",
        "note.txt",
    ]


async def test_a_cancelled_job_is_not_completed(folders: PublicationFolders) -> None:
    folders.create_source("memo.mp3")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("memo.mp3")
        await setup.ledger.cancel_jobs([job.id])
        with pytest.raises(ClaimLost):
            await setup.publisher.publish_job(job)
    assert folders.read_files() == {}


async def test_an_outbox_is_paused_until_it_is_writable_again(folders: PublicationFolders) -> None:
    async with open_publication_setup(folders) as setup:
        assert await setup.outboxes.check_writable("in")
        folders.outbox.rmdir()
        assert not await setup.outboxes.check_writable("in")
        await setup.outboxes.run_once()
        assert setup.outboxes.is_paused("in")
        folders.outbox.mkdir()
        await setup.outboxes.run_once()
        assert not setup.outboxes.is_paused("in")
    assert folders.read_files() == {}


async def test_a_missing_outbox_is_not_created_again(folders: PublicationFolders) -> None:
    folders.create_source("memo.mp3")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("memo.mp3")
        folders.outbox.rmdir()
        with pytest.raises(OutboxUnavailable, match="gone"):
            await setup.publisher.publish_job(job)
        assert not folders.outbox.exists()
        folders.outbox.mkdir()
        await setup.publisher.publish_job(job)
        assert await setup.read_statuses() == {"memo.mp3": "completed"}


async def test_a_folder_with_the_name_of_a_file_is_refused(folders: PublicationFolders) -> None:
    folders.create_source("talks/monday.mp3")
    folders.outbox.mkdir()
    (folders.outbox / "talks").write_text("not a folder")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("talks/monday.mp3")
        with pytest.raises(FileFault) as refusal:
            await setup.publisher.publish_job(job)
    assert refusal.value.code is ErrorCode.OUTPUT_REFUSED


@posix
async def test_links_inside_the_outbox_are_refused_but_it_may_be_one(
    folders: PublicationFolders,
) -> None:
    elsewhere = folders.root / "elsewhere"
    elsewhere.mkdir()
    (folders.root / "real").mkdir()
    (folders.root / "real" / "talks").symlink_to(elsewhere)
    folders.outbox.symlink_to(folders.root / "real")
    folders.create_source("talks/monday.mp3")
    folders.create_source("tuesday.mp3")
    async with open_publication_setup(folders) as setup:
        out, fine = await setup.prepare_jobs("talks/monday.mp3", "tuesday.mp3")
        with pytest.raises(OutboxUnavailable, match="a link"):
            await setup.publisher.publish_job(out)
        await setup.publisher.publish_job(fine)
    assert list(elsewhere.iterdir()) == []
    assert (folders.root / "real" / "tuesday.txt").is_file()


@posix
@pytest.mark.parametrize(
    "name",
    [
        "x" * 251 + ".wav",
        "é" * 125 + ".wav",
        "a\nb.wav",
        "-rf.wav",
        "caf\udce9.wav",
        "CON.wav",
        "e\u0301.wav",
        "a:b*c?.wav",
        " .wav",
        "...wav",
    ],
)
async def test_hostile_names_are_published(folders: PublicationFolders, name: str) -> None:
    folders.create_source(name)
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs(name)
        await setup.publisher.publish_job(job)
        assert set((await setup.read_statuses()).values()) == {"completed"}
    assert len(folders.read_files()) == len(FORMATS)
    assert all(len(os.fsencode(written)) <= 200 for written in folders.read_files())


@pytest.mark.parametrize("together", [1, 16])
async def test_a_hundred_jobs_with_one_name_get_different_names(
    folders: PublicationFolders, together: int
) -> None:
    names = [f"{number}.mp3" for number in range(101)]
    for name in names:
        folders.create_source(name)
    async with open_publication_setup(folders) as setup:
        jobs = await setup.prepare_jobs(*names, options=Options(formats=("txt",), name="same"))
        for some in split_into_slices(jobs, together):
            await asyncio.gather(*map(setup.publisher.publish_job, some))
    assert len(folders.read_files()) == len(names)
    assert "same (99).txt" in folders.read_files()
    assert f"same (job {jobs[-1].id}).txt" in folders.read_files()


async def test_stale_drafts_are_removed_and_no_other_files(folders: PublicationFolders) -> None:
    (folders.outbox / "talks").mkdir(parents=True)
    stale = folders.outbox / "talks" / ".0123456789abcdef.speakeasyd-tmp"
    foreign = folders.outbox / "talks" / ".mine.speakeasyd-tmp"
    stale.touch()
    foreign.touch()
    Outbox(folders.outbox).prepare_folder()
    assert not stale.exists()
    assert foreign.exists()


# --- sources


async def test_a_source_is_archived_only_after_its_publication(
    tmp_path: Path,
) -> None:
    folders = PublicationFolders(tmp_path, sources="archive")
    folders.create_source("talks/monday.mp3", b"monday")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("talks/monday.mp3")
        folders.outbox.rmdir()
        with pytest.raises(OutboxUnavailable):
            await setup.publisher.publish_job(job)
        assert folders.read_files("inbox") == {"talks/monday.mp3": "monday"}
        folders.outbox.mkdir()
        await setup.publisher.publish_job(job)
    assert folders.read_files("inbox") == {}
    assert folders.read_files("archive") == {"talks/monday.mp3": "monday"}


async def test_nothing_in_the_archive_is_overwritten(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="archive")
    async with open_publication_setup(folders) as setup:
        for version in (b"one", b"two two", b"three three"):
            folders.create_source("a.mp3", version)
            [job] = await setup.prepare_jobs("a.mp3")
            await setup.publisher.publish_job(job)
    assert folders.read_files("archive") == {
        "a.mp3": "one",
        "a (2).mp3": "two two",
        "a (3).mp3": "three three",
    }


async def test_a_source_is_deleted_unless_there_is_a_newer_version(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="delete")
    folders.create_source("old.mp3")
    folders.create_source("new.mp3")
    async with open_publication_setup(folders) as setup:
        jobs = await setup.prepare_jobs("old.mp3", "new.mp3")
        folders.create_source("new.mp3", b"a newer version")
        for job in jobs:
            await setup.publisher.publish_job(job)
    assert folders.read_files("inbox") == {"new.mp3": "a newer version"}


async def test_a_failed_source_is_moved_with_its_reason(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, failed=True)
    folders.create_source("letter.mp3", b"Dear Sir")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("letter.mp3")
        await setup.ledger.write(
            fail_job, job.id, job.token, code=ErrorCode.NOT_MEDIA, error="a text file"
        )
        await setup.publisher.publish_failure(job, ErrorCode.NOT_MEDIA, "a text file")
    assert folders.read_files("inbox") == {}
    found = folders.read_files("failed")
    assert found["letter.mp3"] == "Dear Sir"
    assert "a text file" in found["letter.mp3.why.txt"]
    assert "not_media" in found["letter.mp3.why.txt"]


async def test_a_failed_disposal_is_reported_and_the_job_completed(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="archive")
    folders.create_source("a.mp3")
    folders.archive.write_text("not a folder")
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("a.mp3")
        with setup.hub.subscribe() as events:
            await setup.publisher.publish_job(job)
            kinds = [event.kind async for event in _read_events_until(events, "source.stuck")]
        assert "source.stuck" in kinds
        assert await setup.read_statuses() == {"a.mp3": "completed"}
        assert folders.read_files("inbox") == {"a.mp3": "sound of a.mp3"}
        folders.archive.unlink()
        await setup.sources.run_once()
    assert folders.read_files("archive") == {"a.mp3": "sound of a.mp3"}


async def _read_events_until(events: Subscription, kind: str) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.kind == kind:
            return


async def test_a_disposal_round_finds_sources_that_a_crash_left(
    tmp_path: Path,
) -> None:
    folders = PublicationFolders(tmp_path, sources="archive")
    for name in ("done.mp3", "again.mp3", "waiting.mp3"):
        folders.create_source(name)
    async with open_publication_setup(folders) as setup:
        done, again, _ = await setup.prepare_jobs("done.mp3", "again.mp3", "waiting.mp3")
        for job in (done, again):  # completed, but the daemon died before the disposal
            await setup.ledger.write(complete_jobs, [JobArtifacts(job.id, job.token, [])])
        await setup.ledger.retry_jobs([again.id])
        folders.create_source("unknown.mp3")
        await setup.sources.run_once()
    assert sorted(folders.read_files("archive")) == ["done.mp3"]
    assert sorted(folders.read_files("inbox")) == ["again.mp3", "unknown.mp3", "waiting.mp3"]


async def test_a_copy_in_the_archive_is_not_repeated(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path, sources="archive")
    folders.create_source("a.mp3", b"the same")
    folders.archive.mkdir()
    (folders.archive / "a.mp3").write_bytes(b"the same")  # as after a copy to another file system
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("a.mp3")
        await setup.publisher.publish_job(job)
    assert folders.read_files("archive") == {"a.mp3": "the same"}
    assert folders.read_files("inbox") == {}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second filesystem")
async def test_the_archive_may_be_on_another_filesystem(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"speakeasyd-test-{os.getpid()}"
    other.mkdir()
    folders = PublicationFolders(tmp_path, sources="archive")
    folders.archive.symlink_to(other)
    try:
        source = folders.create_source("talks/a.mp3", b"across")
        os.utime(source, ns=(10**18, 10**18))
        async with open_publication_setup(folders) as setup:
            [job] = await setup.prepare_jobs("talks/a.mp3")
            await setup.sources.dispose_source(
                "in", EndedJob(job.id, job.path, job.signature, job.sha256)
            )
        moved = other / "talks" / "a.mp3"
        assert moved.read_bytes() == b"across"
        assert moved.stat().st_mtime_ns == 10**18
        assert not source.exists()
    finally:
        for path in sorted(other.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        other.rmdir()


async def test_each_track_has_its_own_artifacts(folders: PublicationFolders) -> None:
    for name in ("film.mkv", "film.mp4", "talk.mkv"):
        folders.create_source(name)
    tracks = (TranscribedTrack(1, "eng"), TranscribedTrack(2, "", "Second"))
    options = Options(formats=("json", "srt"))
    async with open_publication_setup(folders) as setup:
        for name in ("film.mkv", "film.mp4"):
            [job] = await setup.prepare_jobs(name, options=options, tracks=tracks)
            await setup.publisher.publish_job(job)
        [plain] = await setup.prepare_jobs("talk.mkv", options=options)
        await setup.publisher.publish_job(plain)
        query = "SELECT format, path FROM artifacts WHERE job_id = 1 ORDER BY id"
        rows = [tuple(row.values()) for row in query_readonly(setup.ledger.path, query)]
        [text] = query_readonly(
            setup.ledger.path, "SELECT text FROM transcript_text WHERE job_id = 1"
        )
        spoken = query_readonly(
            setup.ledger.path, "SELECT track FROM segments_text WHERE job_id = 1"
        )
    assert rows == [
        ("srt", "film.eng.srt"),
        ("srt", "film.2.srt"),
        ("json", "film.eng.json"),
        ("json", "film.2.json"),
    ]
    written = folders.read_files()
    assert set(written) == {path for _, path in rows} | {
        *("film.mp4.eng.srt", "film.mp4.2.srt", "film.mp4.eng.json", "film.mp4.2.json"),
        *("talk.srt", "talk.json"),
    }
    assert "It is done. 1\n" in written["film.eng.srt"]
    assert "It is done. 2\n" in written["film.2.srt"]
    document = json.loads(written["film.2.json"])
    assert document["track"] == {"number": 2, "language": None, "title": "Second"}
    assert [segment["track"] for segment in document["segments"]] == [2]
    assert json.loads(written["talk.json"])["track"] is None
    assert text["text"] == "It is done. 1 It is done. 2"
    assert [row["track"] for row in spoken] == [1, 2]


async def test_a_retry_without_tracks_removes_their_artifacts(folders: PublicationFolders) -> None:
    folders.create_source("film.mkv")
    tracks = (TranscribedTrack(1, "eng"), TranscribedTrack(2))
    options = Options(formats=("srt",))
    async with open_publication_setup(folders) as setup:
        [job] = await setup.prepare_jobs("film.mkv", options=options, tracks=tracks)
        await setup.publisher.publish_job(job)
        await setup.ledger.retry_jobs([job.id])
        [again] = await setup.claim_all_jobs()
        await setup.commit_transcript(again, " Once more.")
        kept = await setup.ledger.read(load_transcript, job.id)
        assert kept.tracks == tracks, "until the new text is whole, the old one is current"
        await setup.publisher.publish_job(again)
    assert list(folders.read_files()) == ["film.srt"]
