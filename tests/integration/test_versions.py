"""A file that goes on, or is replaced, after it was done: the natural name belongs to the newest version."""

import hashlib
from pathlib import Path

import pytest

from speakeasyd.domain.job import Job
from speakeasyd.domain.options import Options
from speakeasyd.ledger.publication import load_transcript
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.search import search_text
from tests.integration.publishing import Place, Workshop, workshop

TXT = Options(formats=("txt",))


async def publish(shop: Workshop, data: bytes, text: str, *, options: Options = TXT) -> Job:
    shop.place.drop("talk.mp3", data)
    [job] = await shop.ready("talk.mp3", text=text, options=options)
    await shop.publisher.publish_job(job)
    return job


async def superseded(shop: Workshop) -> list[tuple[int, int | None]]:
    rows = query_readonly(
        shop.ledger.path, "SELECT job_id, superseded_by FROM job_status ORDER BY job_id"
    )
    return [(row["job_id"], row["superseded_by"]) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize("sources", ["keep", "archive", "delete"])
async def test_the_natural_name_belongs_to_the_newest_version(tmp_path: Path, sources: str) -> None:
    place = Place(tmp_path, sources=sources)
    async with workshop(place) as shop:
        one = await publish(shop, b"half", " The first half.")
        two = await publish(shop, b"half and half", " The first half. The second half.")
        three = await publish(shop, b"another", " Something else.")
        assert place.written() == {"talk.txt": "Something else.\n"}
        assert await superseded(shop) == [(one.id, two.id), (two.id, three.id), (three.id, None)]
        assert (await shop.ledger.read(load_transcript, one.id)).text == "The first half."
        assert [hit.job_id for hit in await shop.ledger.searches.read(search_text, "half")] == []
        assert [
            hit.job_id for hit in await shop.ledger.searches.read(search_text, "something")
        ] == [three.id]
        [artifact] = query_readonly(
            shop.ledger.path, "SELECT job_id, path, sha256, replaces_sha256 FROM artifacts"
        )
    written = (place.outbox / "talk.txt").read_bytes()
    assert artifact == {
        "job_id": three.id,
        "path": "talk.txt",
        "sha256": hashlib.sha256(written).hexdigest(),
        "replaces_sha256": None,
    }


async def test_formats_that_the_newer_version_has_not_go(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with workshop(place) as shop:
        await publish(shop, b"one", " One.", options=Options(formats=("txt", "srt", "json")))
        await publish(shop, b"two", " Two.", options=Options(formats=("txt", "vtt")))
    assert sorted(place.written()) == ["talk.txt", "talk.vtt"]


async def test_what_a_person_has_edited_is_theirs(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with workshop(place) as shop:
        await publish(shop, b"one", " One.")
        (place.outbox / "talk.txt").write_text("One, corrected.\n")
        await publish(shop, b"two", " Two.")
        assert place.written() == {"talk.txt": "One, corrected.\n", "talk.mp3.txt": "Two.\n"}
        await publish(shop, b"three", " Three.")
    assert place.written() == {"talk.txt": "One, corrected.\n", "talk.mp3.txt": "Three.\n"}


async def test_of_another_file_nothing_is_replaced(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.drop("talk.wav")
    async with workshop(place) as shop:
        [other] = await shop.ready("talk.wav", text=" Another talk.", options=TXT)
        await shop.publisher.publish_job(other)
        await publish(shop, b"one", " One.")
        await publish(shop, b"two", " Two.")
    assert place.written() == {"talk.txt": "Another talk.\n", "talk.mp3.txt": "Two.\n"}


async def test_an_earlier_version_that_comes_back_is_the_newest(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with workshop(place) as shop:
        await publish(shop, b"one", " One.")
        await publish(shop, b"two", " Two.")
        await publish(shop, b"one", " One.")
        assert [hit.job_id for hit in await shop.ledger.searches.read(search_text, "one")] == [3]
    assert place.written() == {"talk.txt": "One.\n"}
