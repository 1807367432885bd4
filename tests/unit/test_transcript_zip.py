"""The names in a zip file of transcripts."""

import io
import zipfile
from collections.abc import Sequence

import pytest

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.naming import TRIES
from speakeasyd.domain.transcript import Transcript
from speakeasyd.server.transcript_zip import _ZipWriter


def list_names(*sources: str) -> Sequence[str]:
    """Return the names in the zip file of jobs 1, 2, ... with these sources."""
    zipped = _ZipWriter(FORMATS["txt"])
    blocks = [
        zipped.add_transcript(source, Transcript(number, source, "en", "tiny.en", 5.0))
        for number, source in enumerate(sources, 1)
    ]
    file = io.BytesIO(b"".join([*blocks, zipped.finish()]))
    with zipfile.ZipFile(file) as read:
        assert read.testzip() is None
        return read.namelist()


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (("talk.mp3", "talk.wav", "TALK.wav"), ("talk.txt", "talk.wav.txt", "TALK (2).txt")),
        (("../a\r\nb.wav", "/etc/../ü.wav"), ("_/a__b.txt", "etc/_/ü.txt")),
        (("talk.mp3", "Talk.txt/part.mp3"), ("talk.txt", "job 2 (1).txt")),
        (("talk.txt/part.mp3", "Talk.mp3"), ("talk.txt/part.txt", "Talk.mp3.txt")),
    ],
    ids=["equal names", "out of the folder", "folder like a file", "file like a folder"],
)
def test_names_neither_collide_nor_lead_out(sources: Sequence[str], names: Sequence[str]) -> None:
    assert tuple(list_names(*sources)) == names


def test_a_file_is_named_when_all_proposed_names_are_taken() -> None:
    last = TRIES + 2  # the job for which only the name with its number is left
    names = list_names(f"talk (job {last}).wav", *["talk.wav"] * last)
    assert len(set(names)) == len(names) == last + 1
