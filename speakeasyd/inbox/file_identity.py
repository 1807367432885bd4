"""A look at a file, and its identity: the SHA-256 of its bytes. Everything here blocks: call it in a thread."""

import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

from speakeasyd import openness
from speakeasyd.domain.debounce import AccessProblem, Observation, OpenFile
from speakeasyd.domain.job import Signature
from speakeasyd.domain.presets import SIDECAR_BYTES, SIDECAR_ENDING, sidecar_error
from speakeasyd.mounts import SILENT, find_filesystem_type
from speakeasyd.safe_open import FolderHandle, open_below

BLOCK = 1024 * 1024  # bytes read at a time

_SHARING_VIOLATIONS = frozenset(
    {32, 33}
)  # of Windows: another program has the file, or a part of it, to itself


def find_local_device(root: Path) -> int | None:
    """The device whose kernel, this one, notes when its files change. None for those of others, and on Windows, where
    any program may set that time."""
    if sys.platform == "win32" or find_filesystem_type(root) in {"", *SILENT}:
        return None
    with suppress(OSError):
        return root.stat().st_dev
    return None


class LastFolder:
    """Keeps the folder that was used last open: files are mostly observed folder by folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._relative: bytes | None = None
        self._folder: FolderHandle | None = None

    def open_folder(self, relative: bytes) -> FolderHandle:
        """A folder below the root. Raises LinkRefused or another OSError."""
        if self._folder is None or relative != self._relative:
            self.close()
            self._folder = FolderHandle.open(self._root, relative)
            self._relative = relative
        return self._folder

    def close(self) -> None:
        folder, self._folder = self._folder, None
        if folder:
            folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def observe_file(root: Path, path: bytes, *, own: int | None = None) -> Observation | AccessProblem:
    """The state of a file, relative to the inbox, and of its sidecar. `own`: see `find_local_device`."""
    with LastFolder(root) as folders:
        return observe_file_in(folders, path, own=own)


def observe_file_in(
    folders: LastFolder, path: bytes, *, own: int | None
) -> Observation | AccessProblem:
    """The same, of one of many files."""
    above, _, name = path.rpartition(b"/")
    try:
        folder = folders.open_folder(above)
        file = folder.stat(os.fsdecode(name))
    except OSError as error:
        return _classify_error(error)
    if not stat.S_ISREG(file.st_mode):
        return AccessProblem.GONE
    sidecar = _stat_sidecar(folder, os.fsdecode(name))
    changed = max(one.st_ctime for one in (file, sidecar) if one)
    return Observation(
        Signature.of(file),
        Signature.of(sidecar) if sidecar else None,
        rested=max(0.0, time.time() - changed) if file.st_dev == own else 0.0,
    )


def hash_file(
    root: Path, path: bytes, expected: Signature, *, stopped: Callable[[], bool]
) -> str | AccessProblem:
    """The SHA-256, in hex, of the bytes that `expected` is about. Once `stopped`, it ends early and says CHANGED."""
    try:
        with open_below(root, path) as file:
            sha256 = hashlib.sha256()
            block = memoryview(bytearray(min(BLOCK, expected.size + 1)))
            left = expected.size
            same = _read_signature(file) == expected
            while same and (count := file.readinto(block)):
                sha256.update(block[:count])
                left -= count
                same = left >= 0 and not stopped()  # it may grow faster than it can be read
            same = same and _read_signature(file) == expected
    except OSError as error:
        return _classify_error(error)
    return sha256.hexdigest() if same else AccessProblem.CHANGED


def find_writer(root: Path, path: bytes) -> OpenFile | None:
    """Return the program that has the file open for writing; None if there is none or it is unknown."""
    above, _, name = path.rpartition(b"/")
    try:
        with FolderHandle.open(root, above) as folder:
            return openness.find_writer(folder.path_to_open(os.fsdecode(name)))
    except OSError:  # it is gone, or there is a link on the way
        return None


def may_go_on(root: Path, path: bytes, expected: Signature, sha256: str) -> bool:
    """Whether the file is another version than `expected`, or open for writing. One that is gone is neither."""
    seen = observe_file(root, path)
    if isinstance(seen, AccessProblem):
        return False
    if seen.file != expected:
        same_size = seen.file.size == expected.size
        found = (
            hash_file(root, path, seen.file, stopped=lambda: False)
            if same_size
            else AccessProblem.CHANGED
        )
        if found != sha256:
            return True
    return find_writer(root, path) is not None


def read_sidecar(root: Path, path: bytes, expected: Signature) -> bytes | AccessProblem:
    """The bytes of the sidecar of the file at `path`. Raises FileFault (`bad_sidecar`): too large, or unreadable."""
    if expected.size > SIDECAR_BYTES:
        raise sidecar_error(f"it has {expected.size} bytes; {SIDECAR_BYTES} are allowed")
    try:
        with open_below(root, path + SIDECAR_ENDING.encode()) as file:
            data = file.read(SIDECAR_BYTES + 1)
            return data if _read_signature(file) == expected else AccessProblem.CHANGED
    except OSError as error:
        trouble = _classify_error(error)
        if trouble in {AccessProblem.GONE, AccessProblem.LOCKED}:
            return AccessProblem.CHANGED
        if trouble is AccessProblem.DENIED:
            return AccessProblem.SIDECAR_DENIED
        raise sidecar_error(trouble.value) from error


def _read_signature(file: FileIO) -> Signature:
    return Signature.of(os.fstat(file.fileno()))


def _stat_sidecar(folder: FolderHandle, name: str) -> os.stat_result | None:
    try:
        sidecar = folder.stat(name + SIDECAR_ENDING)
    except OSError:  # there is none; or the name would be too long for one
        return None
    return sidecar if stat.S_ISREG(sidecar.st_mode) else None


def _classify_error(error: OSError) -> AccessProblem:
    if getattr(error, "winerror", None) in _SHARING_VIOLATIONS:
        return AccessProblem.LOCKED
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.EISDIR | errno.ENXIO:
            return AccessProblem.GONE
        case errno.EACCES | errno.EPERM:
            return AccessProblem.DENIED
        case errno.EAGAIN | errno.EBUSY | errno.ETXTBSY:
            return AccessProblem.LOCKED
        case _:
            return AccessProblem.UNREADABLE
