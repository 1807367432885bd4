"""A file that grows or is replaced after its transcription: the newest version gets the natural
name.
"""

import hashlib
from pathlib import Path

import pytest

from speakeasyd.domain.job import Job
from speakeasyd.domain.options import Options
from speakeasyd.ledger.publication import load_transcript
from speakeasyd.ledger.readonly import query_readonly
from speakeasyd.ledger.search import search_text
from tests.integration.publishing import (
    PublicationFolders,
    PublicationSetup,
    open_publication_setup,
)

TXT = Options(formats=("txt",))


async def publish_version(
    setup: PublicationSetup, data: bytes, text: str, *, options: Options = TXT
) -> Job:
    setup.folders.create_source("talk.mp3", data)
    [job] = await setup.prepare_jobs("talk.mp3", text=text, options=options)
    await setup.publisher.publish_job(job)
    return job


async def read_superseded(setup: PublicationSetup) -> list[tuple[int, int | None]]:
    rows = query_readonly(
        setup.ledger.path, "SELECT job_id, superseded_by FROM job_status ORDER BY job_id"
    )
    return [(row["job_id"], row["superseded_by"]) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize("sources", ["keep", "archive", "delete"])
async def test_the_natural_name_belongs_to_the_newest_version(tmp_path: Path, sources: str) -> None:
    folders = PublicationFolders(tmp_path, sources=sources)
    async with open_publication_setup(folders) as setup:
        one = await publish_version(setup, b"half", " The first half.")
        two = await publish_version(setup, b"half and half", " The first half. The second half.")
        three = await publish_version(setup, b"another", " Something else.")
        assert folders.read_files() == {"talk.txt": "Something else.\n"}
        assert await read_superseded(setup) == [
            (one.id, two.id),
            (two.id, three.id),
            (three.id, None),
        ]
        assert (await setup.ledger.read(load_transcript, one.id)).text == "The first half."
        assert [hit.job_id for hit in await setup.ledger.searches.read(search_text, "half")] == []
        assert [
            hit.job_id for hit in await setup.ledger.searches.read(search_text, "something")
        ] == [three.id]
        [artifact] = query_readonly(
            setup.ledger.path, "SELECT job_id, path, sha256, replaces_sha256 FROM artifacts"
        )
    written = (folders.outbox / "talk.txt").read_bytes()
    assert artifact == {
        "job_id": three.id,
        "path": "talk.txt",
        "sha256": hashlib.sha256(written).hexdigest(),
        "replaces_sha256": None,
    }


async def test_formats_without_a_newer_version_are_removed(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path)
    async with open_publication_setup(folders) as setup:
        await publish_version(
            setup, b"one", " One.", options=Options(formats=("txt", "srt", "json"))
        )
        await publish_version(setup, b"two", " Two.", options=Options(formats=("txt", "vtt")))
    assert sorted(folders.read_files()) == ["talk.txt", "talk.vtt"]


async def test_edited_artifacts_are_kept(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path)
    async with open_publication_setup(folders) as setup:
        await publish_version(setup, b"one", " One.")
        (folders.outbox / "talk.txt").write_text("One, corrected.\n")
        await publish_version(setup, b"two", " Two.")
        assert folders.read_files() == {"talk.txt": "One, corrected.\n", "talk.mp3.txt": "Two.\n"}
        await publish_version(setup, b"three", " Three.")
    assert folders.read_files() == {"talk.txt": "One, corrected.\n", "talk.mp3.txt": "Three.\n"}


async def test_artifacts_of_other_files_are_kept(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path)
    folders.create_source("talk.wav")
    async with open_publication_setup(folders) as setup:
        [other] = await setup.prepare_jobs("talk.wav", text=" Another talk.", options=TXT)
        await setup.publisher.publish_job(other)
        await publish_version(setup, b"one", " One.")
        await publish_version(setup, b"two", " Two.")
    assert folders.read_files() == {"talk.txt": "Another talk.\n", "talk.mp3.txt": "Two.\n"}


async def test_a_restored_earlier_version_is_the_newest(tmp_path: Path) -> None:
    folders = PublicationFolders(tmp_path)
    async with open_publication_setup(folders) as setup:
        await publish_version(setup, b"one", " One.")
        await publish_version(setup, b"two", " Two.")
        await publish_version(setup, b"one", " One.")
        assert [hit.job_id for hit in await setup.ledger.searches.read(search_text, "one")] == [3]
    assert folders.read_files() == {"talk.txt": "One.\n"}
