"""Receives a multipart form; files are streamed to disk."""

import hashlib
import secrets
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from speakeasyd.durable import sync_file
from speakeasyd.safe_open import FolderHandle
from speakeasyd.server.blocking_calls import BlockingCalls, Transfer
from speakeasyd.server.error_answers import RequestRefused

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BLOCK = 1 << 20  # bytes handed to the disk at a time
FIELDS_LIMIT = 1 << 16  # bytes of all fields that are not files
FILES_LIMIT = 5_000
PARTS_LIMIT = 6_000  # files and fields
FILE_SCHEMA: Mapping[str, str] = {"type": "string", "format": "binary"}


def describe_form(properties: Mapping[str, object], *, required: Sequence[str]) -> dict[str, Any]:
    """Return the body of a request for OpenAPI: a multipart form with these fields."""
    schema = {"type": "object", "required": list(required), "properties": dict(properties)}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file of a form, durable under a temporary name in the form's folder."""

    field: str
    name: str  # as the client calls it, perhaps with folders: not to be trusted
    temporary: str  # name in the form's folder
    bytes: int
    sha256: str


class UploadForm:
    """A received form. Its files are in `folder`, which its owner removes: move files to keep."""

    def __init__(
        self, folder: FolderHandle, calls: BlockingCalls, *, file_fields: Sequence[str] = ()
    ) -> None:
        """`file_fields`: parts of these names are files even without a file name."""
        self.folder = folder
        self._transfer = Transfer(calls)
        self._lock = threading.Lock()  # held by the thread that writes or closes files
        self._reader = _FormReader(self)
        self.file_fields = frozenset(name.encode() for name in file_fields)
        self._parts = 0
        self._text: defaultdict[str, list[str]] = defaultdict(list)
        self.files: list[ReceivedFile] = []

    def get_text(self, name: str, default: str = "") -> str:
        """Return the last value of a field."""
        return (self._text.get(name) or [default])[-1]

    def get_texts(self, name: str) -> list[str]:
        return self._text.get(name, [])

    async def receive_form(self, request: Request) -> None:
        """Read the form.

        Raises RequestRefused: 400 or 415 for an invalid form, 413 for one too large; OSError if the
        disk refuses a write.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise RequestRefused(415, "the body must be multipart/form-data")
        block = bytearray()
        try:
            parser = MultipartParser(options[b"boundary"], self._reader.callbacks)
            async for data in request.stream():
                block += data
                if len(block) >= BLOCK:
                    await self._transfer.run(len(block), self._parse_block, parser, bytes(block))
                    block.clear()
            await self._transfer.run(len(block), self._parse_block, parser, bytes(block))
            parser.finalize()
        except FormParserError as error:
            raise RequestRefused(400, f"invalid form: {error}") from error
        except ClientDisconnect as error:
            raise RequestRefused(400, "the form is incomplete") from error
        if not self._reader.ended:
            raise RequestRefused(400, "the form is incomplete")

    def close(self) -> None:
        """Close the file of an incomplete form. Blocks while another thread writes to it."""
        with self._lock:
            self._reader.close()

    def _parse_block(self, parser: MultipartParser, block: bytes) -> None:
        with self._lock:
            parser.write(block)

    # --- for the reader, in a thread

    def count_part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_LIMIT:
            raise RequestRefused(413, f"more than {PARTS_LIMIT} parts")

    def open_file(self) -> tuple[str, BinaryIO]:
        """Create a file. Returns its temporary name and the file.

        Raises RequestRefused: 413 for too many files.
        """
        if len(self.files) >= FILES_LIMIT:
            raise RequestRefused(413, f"more than {FILES_LIMIT} files")
        name = secrets.token_hex(8)
        return name, self.folder.create_file(name)

    def add_field(self, name: str, value: bytes) -> None:
        self._text[name].append(value.decode("utf-8", "replace"))


class _FormReader:
    """The callbacks of the parser."""

    def __init__(self, form: UploadForm) -> None:
        self._form = form
        self._header, self._value = b"", b""
        self._disposition: dict[bytes, bytes] = {}
        self._said = bytearray()  # of a field that is no file
        self._fields = 0  # bytes
        self._file: tuple[str, BinaryIO] | None = None
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self.ended = False

    @property
    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._begin_part,
            "on_part_data": self._on_part_data,
            "on_part_end": self._end_part,
            "on_end": self._on_end,
        }

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._value)[1]
        self._header = self._value = b""

    def close(self) -> None:
        """Close the file of an incomplete form."""
        if self._file:
            self._file[1].close()

    def _begin_part(self) -> None:
        self._form.count_part()
        is_named = bool(
            self._disposition.get(b"filename")
        )  # a browser sends an empty one where no file was chosen
        if is_named or self._disposition.get(b"name") in self._form.file_fields:
            self._file = self._form.open_file()
            self._sha256, self._bytes = hashlib.sha256(), 0
        else:
            self._count_bytes(1 + len(self._disposition.get(b"name", b"")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._file:
            self._file[1].write(piece)
            self._sha256.update(piece)
            self._bytes += len(piece)
            return
        self._count_bytes(len(piece))
        self._said += piece

    def _count_bytes(self, more: int) -> None:
        self._fields += more
        if self._fields > FIELDS_LIMIT:
            raise RequestRefused(413, f"more than {FIELDS_LIMIT} bytes of fields")

    def _end_part(self) -> None:
        name = self._disposition.get(b"name", b"").decode("utf-8", "replace")
        if self._file:
            temporary, file = self._file
            sync_file(file)
            file.close()
            filename = self._disposition.get(b"filename", b"").decode("utf-8", "replace")
            self._form.files.append(
                ReceivedFile(name, filename, temporary, self._bytes, self._sha256.hexdigest())
            )
        else:
            self._form.add_field(name, bytes(self._said))
        self._file, self._said, self._disposition = None, bytearray(), {}

    def _on_end(self) -> None:
        self.ended = True
