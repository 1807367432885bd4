"""Media types by the first bytes of a file."""

import pytest

from speakeasyd.domain.media_types import guess_extension


@pytest.mark.parametrize(
    ("head", "extension"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"OggS\0\x02", "ogg"),
        (b"ID3\x04\0", "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xf3\x44\xc4", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\0\0\0\x20ftypM4A \0", "m4a"),
        (b"\0\0\0\x18ftypmp42", "mp4"),
        (b"\0\0\0\x18ftyp3gp5", "3gp"),
        (b"\x1a\x45\xdf\xa3\x9f", "mkv"),
        (b"#!AMR\n", "amr"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6", "wma"),
        (b"G" + b"\0" * 187 + b"G" + b"\0" * 50, "ts"),
        (b"", None),
        (b"\xff", None),
        (b"a letter", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\xff\xd8\xff\xe0", None),
    ],
)
def test_the_first_bytes_give_the_type(head: bytes, extension: str | None) -> None:
    assert guess_extension(head) == extension
