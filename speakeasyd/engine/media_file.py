"""The source file of a task: opened once, safely, and checked for changes after reading."""

import hashlib
import os
import stat
import sys
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from speakeasyd.domain.job import Signature
from speakeasyd.errors import ErrorCode, FileFault

if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT
else:
    # A symlink may point outside the inbox, and opening a FIFO would block until it has a writer.
    _FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class MediaFile:
    """A regular file, opened for reading.

    Raises FileFault if it is missing, unreadable, empty or not a regular file. With `expected` and
    `sha256`, also if it is another version; a new signature with equal bytes is accepted.
    """

    def __init__(self, path: str, expected: Signature | None = None, sha256: str = "") -> None:
        self._path = Path(path)
        self._sha256 = sha256
        try:
            self._expected = expected or self._read_signature()
            self.file = _open_file(self._path)
        except FileNotFoundError as error:
            raise FileFault(ErrorCode.SOURCE_MISSING, "the file is gone") from error
        except OSError as error:
            raise FileFault(
                ErrorCode.SOURCE_UNREADABLE, f"the file cannot be opened: {error.strerror}"
            ) from error
        try:
            self.size = self._regular_size()
            self.require_unchanged()
        except FileFault:
            self.file.close()
            raise

    def _regular_size(self) -> int:
        found = os.fstat(self.file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise FileFault(ErrorCode.SOURCE_UNREADABLE, "not a regular file")
        if found.st_size == 0:
            raise FileFault(ErrorCode.EMPTY_FILE, "the file is empty")
        return found.st_size

    def require_unchanged(self) -> None:
        """Raise FileFault (`source_replaced`) if the path has other bytes than expected.

        A path that does not exist any more is accepted.
        """
        try:
            replaced = (
                self._read_signature() != self._expected and self._hash_bytes() != self._sha256
            )
        except OSError:
            return
        if replaced:
            raise FileFault(ErrorCode.SOURCE_REPLACED, "the file has changed since it was admitted")

    def _read_signature(self) -> Signature:
        return Signature.of(self._path.stat(follow_symlinks=False))

    def _hash_bytes(self) -> str:
        with _open_file(self._path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def _open_file(path: Path) -> BufferedReader:
    return os.fdopen(os.open(path, _FLAGS), "rb")
