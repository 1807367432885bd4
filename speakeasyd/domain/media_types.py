"""Guesses a media file's type from its first bytes, for uploads whose name has no extension."""

HEAD_BYTES = 400  # enough for every signature below

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (8, b"WAVE", "wav"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (8, b"AVI ", "avi"),
    (4, b"ftypqt", "mov"),
    (4, b"ftypM4A", "m4a"),
    (4, b"ftypM4B", "m4b"),
    (4, b"ftyp3g", "3gp"),
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (0, b"ID3", "mp3"),
    (0, b"#!AMR", "amr"),
    (0, b"caff", "caf"),
    (0, b".snd", "au"),
    (0, b"FLV\x01", "flv"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"),
    (0, b"\x00\x00\x01\xba", "mpg"),
    (0, b"\x02dss", "dss"),
    (0, b"\x03dss", "dss"),
    (0, b".RMF", "rm"),
)
"""Offset in bytes, the bytes there, and the usual extension."""

_TS_PACKET = 188  # bytes
_ADTS = (0xF0, 0xF6)  # the second byte of an AAC frame: a mask of its sync and layer bits
_MPEG_AUDIO = 0xE0  # the second byte of an MPEG audio frame: its sync bits


def guess_extension(head: bytes) -> str | None:
    """Return the usual extension, without the dot, of a file that begins with `head`.

    None if the type is not recognised.
    """
    for offset, signature, extension in _SIGNATURES:
        if head.startswith(signature, offset):
            return extension
    if len(head) > _TS_PACKET and head[0] == head[_TS_PACKET] == 0x47:
        return "ts"
    if len(head) > 1 and head[0] == 0xFF:
        if head[1] & _ADTS[1] == _ADTS[0]:
            return "aac"
        if head[1] & _MPEG_AUDIO == _MPEG_AUDIO:
            return "mp3"
    return None
