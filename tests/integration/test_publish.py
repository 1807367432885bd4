"""From the ledger to durable files: names, outages, retries, what becomes of sources."""

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
from speakeasyd.ledger.publication import complete_job, load_transcript
from speakeasyd.ledger.readonly import find_matching_jobs, query_readonly
from speakeasyd.outbox.publish import Outbox
from tests.integration.publishing import FORMATS, Place, workshop

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names and links")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_every_format_is_written_and_the_ledger_knows_its_hash(place: Place) -> None:
    place.drop("talks/monday.mp3")
    formats = tuple(ALL_FORMATS)
    async with workshop(place) as shop:
        [job] = await shop.ready("talks/monday.mp3", options=Options(formats=formats))
        await shop.publisher.publish_job(job)
        rows = query_readonly(
            shop.ledger.path,
            "SELECT format, path, sha256, bytes, written_at FROM artifacts ORDER BY id",
        )
        assert await shop.statuses() == {"talks/monday.mp3": "completed"}
    assert {row["path"] for row in rows} == {f"talks/monday.{ending}" for ending in formats}
    assert rows[-1]["format"] == "json", "whoever waits for the json finds the others there"
    for row in rows:
        data = (place.outbox / str(row["path"])).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (row["sha256"], row["bytes"])
        assert row["written_at"]
    assert place.written()["talks/monday.txt"] == "It is done.\n"
    assert json.loads(place.written()["talks/monday.json"])["source"] == "monday.mp3"
    assert place.temporaries() == []


async def test_sources_of_one_stem_have_transcripts_of_their_own(place: Place) -> None:
    names = ["a.mp3", "a.wav", "A.ogg", "a.flac"]
    for name in names:
        place.drop(name)
    async with workshop(place) as shop:
        for job in await shop.ready(*names, options=Options(formats=("txt",))):
            await shop.publisher.publish_job(job)
    assert sorted(place.written()) == ["A.ogg.txt", "a.flac.txt", "a.txt", "a.wav.txt"]


async def test_a_name_that_is_intended_but_not_yet_written_is_taken(place: Place) -> None:
    place.drop("a.mp3")
    place.drop("a.wav")
    async with workshop(place) as shop:
        first, second = await shop.ready("a.mp3", "a.wav", options=Options(formats=("txt",)))
        outbox = place.outbox
        place.outbox.rmdir()
        with pytest.raises(OutboxUnavailable):
            await shop.publisher.publish_job(first)
        outbox.mkdir()
        await shop.publisher.publish_job(second)
        await shop.publisher.publish_job(first)
    assert sorted(place.written()) == ["a.mp3.txt", "a.txt"]


async def test_what_lies_in_the_outbox_already_is_left_alone(place: Place) -> None:
    place.drop("memo.mp3")
    place.outbox.mkdir()
    (place.outbox / "memo.srt").write_text("a person's own")
    (place.outbox / "memo.mp3.json").mkdir()
    async with workshop(place) as shop:
        [job] = await shop.ready("memo.mp3")
        await shop.publisher.publish_job(job)
    assert place.written()["memo.srt"] == "a person's own"
    assert sorted(place.written()) == ["memo (2).json", "memo (2).srt", "memo (2).txt", "memo.srt"]


async def test_a_retry_replaces_its_own_files_but_none_that_a_person_has_edited(
    place: Place,
) -> None:
    place.drop("memo.mp3")
    place.drop("note.mp3")
    async with workshop(place) as shop:
        for job in await shop.ready(
            "memo.mp3", "note.mp3", options=Options(formats=("txt", "srt"))
        ):
            await shop.publisher.publish_job(job)
        (place.outbox / "note.txt").write_text("It is done, and corrected.\n")
        await shop.ledger.retry_jobs(find_matching_jobs(shop.ledger.path, "1"))
        for job in await shop.claimed():
            await shop.transcribed(job, " It is done better.")
            await shop.publisher.publish_job(job)
    assert place.written()["memo.txt"] == "It is done better.\n"
    assert place.written()["note.txt"] == "It is done, and corrected.\n"
    assert sorted(place.written()) == [
        "memo.srt",
        "memo.txt",
        "note.mp3.srt",
        "note.mp3.txt",
        "note.txt",
    ]


async def test_a_cancelled_job_is_not_completed(place: Place) -> None:
    place.drop("memo.mp3")
    async with workshop(place) as shop:
        [job] = await shop.ready("memo.mp3")
        await shop.ledger.cancel_jobs([job.id])
        with pytest.raises(ClaimLost):
            await shop.publisher.publish_job(job)
    assert place.written() == {}


async def test_the_queue_of_an_outbox_rests_until_it_takes_files_again(place: Place) -> None:
    async with workshop(place) as shop:
        assert await shop.outboxes.check_writable("in")
        place.outbox.rmdir()
        assert not await shop.outboxes.check_writable("in")
        await shop.outboxes.run_once()
        assert shop.outboxes.is_paused("in")
        place.outbox.mkdir()
        await shop.outboxes.run_once()
        assert not shop.outboxes.is_paused("in")
    assert place.written() == {}


async def test_an_outbox_that_vanished_is_not_made_anew(place: Place) -> None:
    place.drop("memo.mp3")
    async with workshop(place) as shop:
        [job] = await shop.ready("memo.mp3")
        place.outbox.rmdir()
        with pytest.raises(OutboxUnavailable, match="gone"):
            await shop.publisher.publish_job(job)
        assert not place.outbox.exists()
        place.outbox.mkdir()
        await shop.publisher.publish_job(job)
        assert await shop.statuses() == {"memo.mp3": "completed"}


async def test_a_folder_whose_name_is_taken_by_a_file_is_refused(place: Place) -> None:
    place.drop("talks/monday.mp3")
    place.outbox.mkdir()
    (place.outbox / "talks").write_text("not a folder")
    async with workshop(place) as shop:
        [job] = await shop.ready("talks/monday.mp3")
        with pytest.raises(FileFault) as refusal:
            await shop.publisher.publish_job(job)
    assert refusal.value.code is ErrorCode.OUTPUT_REFUSED


@posix
async def test_a_link_that_leads_out_of_the_outbox_is_refused_but_the_outbox_may_be_one(
    place: Place,
) -> None:
    elsewhere = place.root / "elsewhere"
    elsewhere.mkdir()
    (place.root / "real").mkdir()
    (place.root / "real" / "talks").symlink_to(elsewhere)
    place.outbox.symlink_to(place.root / "real")
    place.drop("talks/monday.mp3")
    place.drop("tuesday.mp3")
    async with workshop(place) as shop:
        out, fine = await shop.ready("talks/monday.mp3", "tuesday.mp3")
        with pytest.raises(OutboxUnavailable, match="a link"):
            await shop.publisher.publish_job(out)
        await shop.publisher.publish_job(fine)
    assert list(elsewhere.iterdir()) == []
    assert (place.root / "real" / "tuesday.txt").is_file()


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
async def test_hostile_names_are_published(place: Place, name: str) -> None:
    place.drop(name)
    async with workshop(place) as shop:
        [job] = await shop.ready(name)
        await shop.publisher.publish_job(job)
        assert set((await shop.statuses()).values()) == {"completed"}
    assert len(place.written()) == len(FORMATS)
    assert all(len(os.fsencode(written)) <= 200 for written in place.written())


async def test_a_hundred_jobs_of_one_name_are_told_apart(place: Place) -> None:
    names = [f"{number}.mp3" for number in range(101)]
    for name in names:
        place.drop(name)
    async with workshop(place) as shop:
        jobs = await shop.ready(*names, options=Options(formats=("txt",), name="same"))
        for job in jobs:
            await shop.publisher.publish_job(job)
    assert len(place.written()) == len(names)
    assert "same (99).txt" in place.written()
    assert f"same (job {jobs[-1].id}).txt" in place.written()


async def test_temporaries_of_a_crash_are_swept_and_nothing_else(place: Place) -> None:
    (place.outbox / "talks").mkdir(parents=True)
    left = place.outbox / "talks" / ".0123456789abcdef.speakeasyd-tmp"
    foreign = place.outbox / "talks" / ".mine.speakeasyd-tmp"
    left.touch()
    foreign.touch()
    Outbox(place.outbox).prepare_folder()
    assert not left.exists()
    assert foreign.exists()


# --- sources


async def test_a_source_goes_to_the_archive_only_once_its_transcript_is_there(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, sources="archive")
    place.drop("talks/monday.mp3", b"monday")
    async with workshop(place) as shop:
        [job] = await shop.ready("talks/monday.mp3")
        place.outbox.rmdir()
        with pytest.raises(OutboxUnavailable):
            await shop.publisher.publish_job(job)
        assert place.written("inbox") == {"talks/monday.mp3": "monday"}
        place.outbox.mkdir()
        await shop.publisher.publish_job(job)
    assert place.written("inbox") == {}
    assert place.written("archive") == {"talks/monday.mp3": "monday"}


async def test_nothing_in_the_archive_is_overwritten(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="archive")
    async with workshop(place) as shop:
        for version in (b"one", b"two two", b"three three"):
            place.drop("a.mp3", version)
            [job] = await shop.ready("a.mp3")
            await shop.publisher.publish_job(job)
    assert place.written("archive") == {
        "a.mp3": "one",
        "a (2).mp3": "two two",
        "a (3).mp3": "three three",
    }


async def test_a_source_is_deleted_unless_a_newer_version_has_come(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="delete")
    place.drop("old.mp3")
    place.drop("new.mp3")
    async with workshop(place) as shop:
        jobs = await shop.ready("old.mp3", "new.mp3")
        place.drop("new.mp3", b"a newer version")
        for job in jobs:
            await shop.publisher.publish_job(job)
    assert place.written("inbox") == {"new.mp3": "a newer version"}


async def test_a_failed_source_moves_with_a_note_of_why(tmp_path: Path) -> None:
    place = Place(tmp_path, failed=True)
    place.drop("letter.mp3", b"Dear Sir")
    async with workshop(place) as shop:
        [job] = await shop.ready("letter.mp3")
        await shop.ledger.write(
            fail_job, job.id, job.token, code=ErrorCode.NOT_MEDIA, error="a text file"
        )
        await shop.publisher.publish_failure(job, ErrorCode.NOT_MEDIA, "a text file")
    assert place.written("inbox") == {}
    found = place.written("failed")
    assert found["letter.mp3"] == "Dear Sir"
    assert "a text file" in found["letter.mp3.why.txt"]
    assert "not_media" in found["letter.mp3.why.txt"]


async def test_a_source_that_cannot_be_put_away_is_told_of_and_fails_no_job(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="archive")
    place.drop("a.mp3")
    place.archive.write_text("not a folder")
    async with workshop(place) as shop:
        [job] = await shop.ready("a.mp3")
        with shop.hub.subscribe() as events:
            await shop.publisher.publish_job(job)
            told = [event.kind async for event in _until(events, "source.stuck")]
        assert "source.stuck" in told
        assert await shop.statuses() == {"a.mp3": "completed"}
        assert place.written("inbox") == {"a.mp3": "sound of a.mp3"}
        place.archive.unlink()
        await shop.sources.run_once()
    assert place.written("archive") == {"a.mp3": "sound of a.mp3"}


async def _until(events: Subscription, kind: str) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.kind == kind:
            return


async def test_a_round_finds_what_a_crash_left_and_nothing_that_is_still_needed(
    tmp_path: Path,
) -> None:
    place = Place(tmp_path, sources="archive")
    for name in ("done.mp3", "again.mp3", "waiting.mp3"):
        place.drop(name)
    async with workshop(place) as shop:
        done, again, _ = await shop.ready("done.mp3", "again.mp3", "waiting.mp3")
        for job in (done, again):  # completed, but the daemon died before it put the source away
            await shop.ledger.write(complete_job, job.id, job.token, [])
        await shop.ledger.retry_jobs([again.id])
        place.drop("unknown.mp3")
        await shop.sources.run_once()
    assert sorted(place.written("archive")) == ["done.mp3"]
    assert sorted(place.written("inbox")) == ["again.mp3", "unknown.mp3", "waiting.mp3"]


async def test_a_copy_that_a_crash_left_in_the_archive_is_not_doubled(tmp_path: Path) -> None:
    place = Place(tmp_path, sources="archive")
    place.drop("a.mp3", b"the same")
    place.archive.mkdir()
    (place.archive / "a.mp3").write_bytes(b"the same")  # as after a copy to another filesystem
    async with workshop(place) as shop:
        [job] = await shop.ready("a.mp3")
        await shop.publisher.publish_job(job)
    assert place.written("archive") == {"a.mp3": "the same"}
    assert place.written("inbox") == {}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second filesystem")
async def test_the_archive_may_be_on_another_filesystem(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"speakeasyd-test-{os.getpid()}"
    other.mkdir()
    place = Place(tmp_path, sources="archive")
    place.archive.symlink_to(other)
    try:
        source = place.drop("talks/a.mp3", b"across")
        os.utime(source, ns=(10**18, 10**18))
        async with workshop(place) as shop:
            [job] = await shop.ready("talks/a.mp3")
            await shop.sources.dispose_source(
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


async def test_each_track_has_artifacts_of_its_own(place: Place) -> None:
    for name in ("film.mkv", "film.mp4", "talk.mkv"):
        place.drop(name)
    tracks = (TranscribedTrack(1, "eng"), TranscribedTrack(2, "", "Second"))
    options = Options(formats=("json", "srt"))
    async with workshop(place) as shop:
        for name in ("film.mkv", "film.mp4"):
            [job] = await shop.ready(name, options=options, tracks=tracks)
            await shop.publisher.publish_job(job)
        [plain] = await shop.ready("talk.mkv", options=options)
        await shop.publisher.publish_job(plain)
        query = "SELECT format, path FROM artifacts WHERE job_id = 1 ORDER BY id"
        rows = [tuple(row.values()) for row in query_readonly(shop.ledger.path, query)]
        [text] = query_readonly(
            shop.ledger.path, "SELECT text FROM transcript_text WHERE job_id = 1"
        )
        spoken = query_readonly(
            shop.ledger.path, "SELECT track FROM segments_text WHERE job_id = 1"
        )
    assert rows == [
        ("srt", "film.eng.srt"),
        ("srt", "film.2.srt"),
        ("json", "film.eng.json"),
        ("json", "film.2.json"),
    ]
    written = place.written()
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


async def test_a_retry_without_tracks_removes_their_artifacts(place: Place) -> None:
    place.drop("film.mkv")
    tracks = (TranscribedTrack(1, "eng"), TranscribedTrack(2))
    options = Options(formats=("srt",))
    async with workshop(place) as shop:
        [job] = await shop.ready("film.mkv", options=options, tracks=tracks)
        await shop.publisher.publish_job(job)
        await shop.ledger.retry_jobs([job.id])
        [again] = await shop.claimed()
        await shop.transcribed(again, " Once more.")
        kept = await shop.ledger.read(load_transcript, job.id)
        assert kept.tracks == tracks, "until the new text is whole, the old one is current"
        await shop.publisher.publish_job(again)
    assert list(place.written()) == ["film.srt"]
