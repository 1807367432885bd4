"""The file under transcription: opened once, safely, and looked at again when it has been read."""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from speakeasyd.errors import ErrorCode, FileFault

if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT
else:
    # A symlink may lead out of the inbox, and opening a FIFO would wait for its writer.
    _FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Identity:
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat(follow_symlinks=False)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class Source:
    """A regular file opened for reading. Raises `FileFault` if it is missing, refused, empty or not a regular file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        try:
            self._identity = _Identity.of(self._path)
            self.file: BinaryIO = os.fdopen(os.open(path, _FLAGS), "rb")
        except FileNotFoundError as error:
            raise FileFault(ErrorCode.SOURCE_MISSING, "the file is gone") from error
        except OSError as error:
            raise FileFault(ErrorCode.SOURCE_UNREADABLE, f"the file cannot be opened: {error.strerror}") from error
        try:
            self.size = self._regular_size()
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
        """Raise `FileFault` if the name has got other bytes since it was opened. A name that is gone is no fault."""
        try:
            now = _Identity.of(self._path)
        except OSError:
            return
        if now != self._identity:
            raise FileFault(ErrorCode.SOURCE_REPLACED, "the file changed while it was read")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
