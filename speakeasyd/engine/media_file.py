"""The source file of a task: opened once, safely, and checked for changes after reading."""

import hashlib
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from speakeasyd.domain.job import Signature
from speakeasyd.domain.protocol import SourceRef
from speakeasyd.errors import ErrorCode, FileFault
from speakeasyd.safe_open import LinkRefused, NotRegular, open_below, stat_below


def open_source(source: SourceRef, folders: Mapping[str, str]) -> "MediaFile":
    """Open a source for reading; `folders`: see `WorkerSpec.folders`.

    Raises FileFault as `MediaFile` does, and if its folder is not on this machine.
    """
    if source.folder not in folders:
        raise FileFault(ErrorCode.SOURCE_MISSING, f"the folder {source.folder} is not known here")
    root = folders[source.folder]
    path = str(Path(root) / os.fsdecode(source.path))
    return MediaFile(path, source.signature, source.sha256, root=root)


class MediaFile:
    """A regular file, opened for reading.

    Raises FileFault if it is missing, unreadable, empty or not a regular file. With `expected` and
    `sha256`, also if it is another version; a new signature with equal bytes is accepted.
    """

    def __init__(
        self,
        path: str,
        expected: Signature | None = None,
        sha256: str = "",
        *,
        root: str = "",
    ) -> None:
        """`root`: a folder above `path` to which others may write: below it no link is followed.

        Without one, this is the file's own folder.
        """
        self._root = Path(root) if root else Path(path).parent
        self._below = Path(path).relative_to(self._root).as_posix()
        self._sha256 = sha256
        try:
            self._expected = expected or self._read_signature()
            self.file = self._open_file()
        except NotRegular as error:
            raise FileFault(ErrorCode.SOURCE_UNREADABLE, "not a regular file") from error
        except FileNotFoundError as error:
            raise FileFault(ErrorCode.SOURCE_MISSING, "the file is gone") from error
        except LinkRefused as error:
            raise FileFault(
                ErrorCode.SOURCE_LINKED, "a link is in its place, which is not followed"
            ) from error
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
        return Signature.of(stat_below(self._root, self._below))

    def _open_file(self) -> BufferedReader:
        return BufferedReader(open_below(self._root, self._below))

    def _hash_bytes(self) -> str:
        with self._open_file() as file:
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
