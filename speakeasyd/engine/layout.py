"""What of a file is to be read, and how much of it is missing, judged by its structure alone.

FFmpeg believes what a header says: it stops where a stale size ends, and at the second file of
several that were joined. `find_layout` finds the parts, and the header fields that have to be read
differently. Only headers are read; the cost does not grow with the length of the audio.
"""

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

_UNKNOWN_32 = 0xFFFF_FFFF
_UNKNOWN_RIFF_SIZE = 0x7FFF_FF00  # streaming writers leave this much or more, or 0
_WRAP = 1 << 32  # bytes: sizes of 32 bits begin anew here
_STALE_BYTES = 4096  # less data than this behind the last chunk is somebody's tag, not sound
_PROBE_BYTES = 1 << 16
_SAME_LENGTH = 0.98  # of the file: what its header may leave out for tags at the end
_W64_SUFFIX = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # ends the chunk identifiers of Wave64
_WAVE_HEADS = frozenset({b"RIFF", b"RF64", b"BW64"})
_OGG_FIRST = 0x02  # flag of the first page of a stream
_FLV_SIZE = b"filesize\x00"  # a name in its metadata, then the type: a number
_LARGEST_FILE = float(1 << 62)  # bytes
_EBML_MAGIC, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF_MAGIC = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MP4_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx", b"uuid", b"mfra"}
    | {b"styp", b"pdin", b"meta", b"emsg", b"prft", b"ssix", b"pnot", b"udta"}
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file in the file: bytes [start, end), with `patches` (offset in the part, bytes) in place."""

    start: int
    end: int
    patches: tuple[tuple[int, bytes], ...] = ()
    stale: bool = False  # the header says that less sound is there than there is


@dataclass(frozen=True, slots=True)
class Layout:
    parts: tuple[Part, ...]
    missing: int = 0  # bytes that the structure promises behind the end of the file
    ends_well: bool = False  # the structure reaches exactly or nearly to the end of the file
    # An MP3 that says how many frames it has, and is as long as it says
    counts_frames: bool = False


class PartFile(io.RawIOBase):
    """A part as a file of its own."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self._file, self._part = file, part
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        length = self._part.end - self._part.start
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: length}
        position = bases[whence] + offset
        if position < 0:
            raise OSError(22, "seek before the beginning")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        remaining = max(0, self._part.end - self._part.start - self._position)
        self._file.seek(self._part.start + self._position)
        data = self._file.read(remaining if size < 0 else min(size, remaining))
        for offset, patch in self._part.patches:
            at = offset - self._position
            if -len(patch) < at < len(data):
                inside = patch[max(0, -at) : len(data) - at]
                begin = max(0, at)
                data = data[:begin] + inside + data[begin + len(inside) :]
        self._position += len(data)
        return data


def open_part(file: BinaryIO, part: Part, size: int) -> BinaryIO:
    """The file itself where the part is all of it."""
    if part == Part(0, size):
        file.seek(0)
        return file
    return PartFile(file, part)  # type: ignore[return-value] # what FFmpeg's bridge needs of a file


def find_layout(file: BinaryIO, size: int) -> Layout:
    """Moves the file's position. Whatever is not understood is one part and misses nothing."""
    head = _read_bytes(file, 0, 16)
    if head[:4] in _WAVE_HEADS and head[8:12] == b"WAVE":
        return _survey_wave(file, size)
    if head[:4] == b"riff" and head[4:16] == bytes.fromhex("2e91cf11a5d628db04c10000"):
        return _survey_wave64(file, size)
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return _survey_aiff(file, size)
    if survey_by_magic := _SURVEYS.get(head[:4]):
        return survey_by_magic(file, size)
    if head[4:8] in _MP4_BOXES:
        return _survey_mp4(file, size)
    counts_frames = False
    if head[:4] == b"RIFF":  # AVI and others; OpenDML appends more of these
        *_, last = _RiffReader().walk(file, 0, size)
        promised = last.body + last.length if last.length < _UNKNOWN_RIFF_SIZE else 0
    else:
        promised, counts_frames = _read_xing(file)
        counts_frames = counts_frames and (not promised or promised >= _SAME_LENGTH * size)
    return _lay_out_one(size, promised, counts_frames=counts_frames)


def _lay_out_one(size: int, promised: int, *, counts_frames: bool = False) -> Layout:
    ends_well = 0 < promised <= size
    return Layout((Part(0, size),), max(0, promised - size), ends_well, counts_frames)


# --- chunks: WAV, Wave64, AIFF ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RiffChunk:
    name: bytes
    at: int  # of its header
    body: int  # where its content begins
    length: int  # of its content, as declared


@dataclass(frozen=True, slots=True)
class _RiffReader:
    """A family of containers: how chunks are named and measured."""

    big_endian: bool = False
    wide: bool = False  # Wave64: names of 16 bytes, lengths of 8 that include the header

    def read(self, file: BinaryIO, at: int) -> _RiffChunk | None:
        header = _read_bytes(file, at, 24 if self.wide else 8)
        if len(header) < (24 if self.wide else 8):
            return None
        if self.wide:
            known = header[4:16] in {_W64_SUFFIX, bytes.fromhex("2e91cf11a5d628db04c10000")}
            length = int.from_bytes(header[16:24], "little") - 24
            return _RiffChunk(header[:4], at, at + 24, length) if known and length >= 0 else None
        name, order = header[:4], "big" if self.big_endian else "little"
        length = int.from_bytes(header[4:8], order)  # type: ignore[arg-type] # one of the two
        printable = all(0x20 <= byte < 0x7F for byte in name)
        return _RiffChunk(name, at, at + 8, length) if printable else None

    def after(self, chunk: _RiffChunk, length: int | None = None) -> int:
        end = chunk.body + (chunk.length if length is None else length)
        return -(-end // 8) * 8 if self.wide else end + end % 2

    def walk(self, file: BinaryIO, at: int, size: int) -> Iterator[_RiffChunk]:
        while at < size and (chunk := self.read(file, at)):
            yield chunk
            at = self.after(chunk)


@dataclass(frozen=True, slots=True)
class _Data:
    """What became of a chunk of samples: where its file ends, whether its size has to be patched."""

    end: int
    patched: bool = False
    stale: bool = False
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Survey:
    """A file of chunks; `heads` are the names that begin another one behind it."""

    file: BinaryIO
    size: int
    chunks: _RiffReader
    heads: frozenset[bytes]
    survey_next: Callable[[BinaryIO, int, int], Layout]

    def judge_data(self, chunk: _RiffChunk, length: int) -> _Data:
        remaining = self.size - chunk.body
        if length == 0 or length >= 1 << 62:  # never filled in
            ends_here = length == 0 and self._find_rest(chunk.body) is not None
            return _Data(self.size, patched=remaining > 0 and not ends_here)
        if length >= remaining:
            return _Data(self.size, missing=length - remaining)
        for whole in range(length, remaining, _WRAP):
            rest = self._find_rest(self.chunks.after(chunk, whole))
            if rest is not None and whole == length:
                return _Data(rest)
            if rest is not None:
                return _Data(chunk.body + whole, patched=True)
        wrapped = (remaining - length) % _WRAP <= 1
        return _Data(self.size, patched=True, stale=not wrapped)

    def _find_rest(self, at: int) -> int | None:
        """Where the next file begins if well-formed chunks lead there; the size if they lead to the
        end. None if what lies at `at` is no chunk: the data goes on."""
        for start in (at, at - at % 2):  # some writers forget the pad byte
            end = start
            while end < self.size and (chunk := self.chunks.read(self.file, end)):
                if chunk.name in self.heads:
                    return end
                end = self.chunks.after(chunk)
            if end - self.size in {0, 1}:
                return self.size
        return self.size if 0 <= self.size - at <= _STALE_BYTES else None

    def lay_out(self, start: int, found: _Data, patch: tuple[int, bytes]) -> Layout:
        """The file at `start`, and those behind it."""
        part = Part(start, found.end, (patch,) if found.patched else (), found.stale)
        if found.patched or found.end >= self.size:
            return Layout((part,), found.missing)
        rest = self.survey_next(self.file, self.size, found.end)
        return Layout((part, *rest.parts), rest.missing)


def _survey_wave(file: BinaryIO, size: int, start: int = 0) -> Layout:
    chunks = _RiffReader()
    wide_size_at, wide_size = None, None
    for chunk in chunks.walk(file, start + 12, size):
        if chunk.name == b"ds64":
            wide_size_at = chunk.body + 8
            wide_size = int.from_bytes(_read_bytes(file, wide_size_at, 8), "little")
        if chunk.name != b"data":
            continue
        length, patch_at, unknown = chunk.length, chunk.at + 4, b"\xff\xff\xff\xff"
        remaining = size - chunk.body
        if wide_size_at is not None and wide_size is not None:
            length, patch_at, unknown = wide_size, wide_size_at, remaining.to_bytes(8, "little")
        elif length in {0, _UNKNOWN_32} or length >= _UNKNOWN_RIFF_SIZE >= remaining:
            length = 0
        survey = _Survey(file, size, chunks, _WAVE_HEADS, _survey_wave)
        return survey.lay_out(start, survey.judge_data(chunk, length), (patch_at - start, unknown))
    return Layout((Part(start, size),))


def _survey_wave64(file: BinaryIO, size: int, start: int = 0) -> Layout:
    chunks = _RiffReader(wide=True)
    for chunk in chunks.walk(file, start + 40, size):
        if chunk.name == b"data":
            survey = _Survey(file, size, chunks, frozenset({b"riff"}), _survey_wave64)
            patch = chunk.at + 16 - start, (size - chunk.at).to_bytes(8, "little")
            return survey.lay_out(start, survey.judge_data(chunk, chunk.length), patch)
    return Layout((Part(start, size),))


def _survey_aiff(file: BinaryIO, size: int, start: int = 0) -> Layout:
    chunks = _RiffReader(big_endian=True)
    for chunk in chunks.walk(file, start + 12, size):
        if chunk.name == b"SSND":
            survey = _Survey(file, size, chunks, frozenset({b"FORM"}), _survey_aiff)
            remaining = min(size - chunk.body, _UNKNOWN_32)
            patch = chunk.at + 4 - start, remaining.to_bytes(4, "big")
            layout = survey.lay_out(start, survey.judge_data(chunk, chunk.length), patch)
            return replace(layout, missing=layout.missing + size - chunk.body - remaining)
    return Layout((Part(start, size),))


# --- Ogg ----------------------------------------------------------------------------------------


def _survey_ogg(file: BinaryIO, size: int) -> Layout:
    """A link begins with the first pages of its streams, all together; behind a page of content
    the next first page begins the next link."""
    starts, content, at = [0], False, 0
    missing = 0
    while at < size:
        page = _read_page(file, at)
        if page is None:
            following = _find_pattern(file, b"OggS", at + 1, size)
            if following is None:
                break
            at = following
            continue
        first, length = page
        if first and content:
            starts.append(at)
        content = not first
        missing = length if at + length > size else 0  # nothing of such a page can be decoded
        at += length
    ends = [*starts[1:], size]
    return Layout(tuple(Part(start, end) for start, end in zip(starts, ends, strict=True)), missing)


def _read_page(file: BinaryIO, at: int) -> tuple[bool, int] | None:
    """Whether it is a stream's first page, and its length in bytes."""
    header = _read_bytes(file, at, 27)
    if len(header) < 27 or header[:4] != b"OggS":
        return None
    table = file.read(header[26])
    return bool(header[5] & _OGG_FIRST), 27 + header[26] + sum(table)


# --- boxes and elements -------------------------------------------------------------------------


def _survey_mp4(file: BinaryIO, size: int) -> Layout:
    starts, at, has_movie, missing = [0], 0, False, 0
    while at + 8 <= size:
        header = _read_bytes(file, at, 16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if name not in _MP4_BOXES:
            break
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        if name == b"ftyp" and has_movie:
            starts.append(at)
            has_movie = False
        has_movie = has_movie or name == b"moov"
        missing = max(0, at + length - size)
        at += length
    ends = [*starts[1:], size]
    parts = tuple(Part(start, end) for start, end in zip(starts, ends, strict=True))
    return Layout(parts, missing, ends_well=at == size)


def _survey_sized(file: BinaryIO, size: int) -> Layout:
    """Containers that say how long they are: another of the kind may follow right behind."""
    head = _read_bytes(file, 0, 4)
    find_end = _SIZED_HEADS[head]
    starts = [0]
    while True:
        start = starts[-1]
        promised = find_end(file, start, size)
        if not (start < promised < size and _read_bytes(file, promised, 4) == head):
            break
        starts.append(promised)
    if len(starts) == 1:
        return _lay_out_one(size, promised)
    ends = [*starts[1:], size]
    parts = tuple(Part(start, end) for start, end in zip(starts, ends, strict=True))
    return Layout(parts, max(0, promised - size), ends_well=0 < promised <= size)


def _find_end_of_matroska(file: BinaryIO, start: int, _size: int) -> int:
    """Where the segment ends, 0 if it does not say."""
    head = _read_bytes(file, start, _PROBE_BYTES)
    at = head.find(_SEGMENT)
    if at < 0 or at + 5 > len(head) or not head[at + 4]:
        return 0
    width = 9 - head[at + 4].bit_length()
    value = int.from_bytes(head[at + 4 : at + 4 + width], "big") & ((1 << 7 * width) - 1)
    return 0 if value == (1 << 7 * width) - 1 else start + at + 4 + width + value


def _find_end_of_au(file: BinaryIO, start: int, _size: int) -> int:
    head = _read_bytes(file, start, 12)
    length = int.from_bytes(head[8:12], "big")
    return start + int.from_bytes(head[4:8], "big") + length if length != _UNKNOWN_32 else 0


def _find_end_of_caf(file: BinaryIO, start: int, size: int) -> int:
    at = start + 8
    while at + 12 <= size:
        header = _read_bytes(file, at, 12)
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:4] == b"caff":
            break
        if length < 0:  # to the end of the file
            return 0
        at += 12 + length
    return at


def _find_end_of_asf(file: BinaryIO, start: int, _size: int) -> int:
    head = _read_bytes(file, start, _PROBE_BYTES)
    at = head.find(_ASF_FILE_PROPERTIES)
    broadcast = at < 0 or at + 92 > len(head) or head[at + 88] & 1
    return 0 if broadcast else start + int.from_bytes(head[at + 40 : at + 48], "little")


def _find_end_of_flv(file: BinaryIO, start: int, _size: int) -> int:
    """Writers that return to the head when they have ended put the size among the metadata."""
    head = _read_bytes(file, start, _PROBE_BYTES)
    at = head.lower().find(_FLV_SIZE)
    value = head[at + len(_FLV_SIZE) : at + len(_FLV_SIZE) + 8]
    if at < 0 or len(value) < 8:
        return 0
    length: float = struct.unpack(">d", value)[0]
    return start + int(length) if 0.0 < length < _LARGEST_FILE else 0


# By the first four bytes: where the container that begins at an offset ends, 0 if it does not say.
_SIZED_HEADS: Mapping[bytes, Callable[[BinaryIO, int, int], int]] = {
    _EBML_MAGIC: _find_end_of_matroska,
    b".snd": _find_end_of_au,
    b"caff": _find_end_of_caf,
    _ASF_MAGIC[:4]: _find_end_of_asf,
    b"FLV\x01": _find_end_of_flv,
}
_SURVEYS: Mapping[bytes, Callable[[BinaryIO, int], Layout]] = {
    b"OggS": _survey_ogg,
    **dict.fromkeys(_SIZED_HEADS, _survey_sized),
}


def _read_xing(file: BinaryIO) -> tuple[int, bool]:
    """Where an MP3 ends by its Xing header, 0 if unknown, and whether it counts the frames."""
    head = _read_bytes(file, 0, 10)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + sum((head[6 + n] & 0x7F) << 7 * (3 - n) for n in range(4))
    frame = _read_bytes(file, tag, 64)
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return 0, False
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or at + 16 > len(frame):
        return 0, False
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    counts_frames, counts_bytes = bool(flags & 1), bool(flags & 2)
    length_at = at + 12 if counts_frames else at + 8
    length = int.from_bytes(frame[length_at : length_at + 4], "big")
    return tag + length if counts_bytes else 0, counts_frames


# --- bytes --------------------------------------------------------------------------------------


def _read_bytes(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _find_pattern(file: BinaryIO, pattern: bytes, at: int, size: int) -> int | None:
    while at < size:
        found = _read_bytes(file, at, _PROBE_BYTES).find(pattern)
        if found >= 0:
            return at + found
        at += _PROBE_BYTES - len(pattern) + 1
    return None
