"""A look at a file, and its identity: the SHA-256 of its bytes. Everything here blocks: call it in a thread."""

import errno
import hashlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from speakeasyd import openness
from speakeasyd.domain.debounce import AccessProblem, Observation, OpenFile
from speakeasyd.domain.job import Signature
from speakeasyd.domain.presets import SIDECAR_BYTES, SIDECAR_ENDING, sidecar_error
from speakeasyd.inbox.paths import join_path, leads_outside
from speakeasyd.mounts import SILENT, find_filesystem_type

BLOCK = 1024 * 1024  # bytes read at a time

if sys.platform == "win32":
    _FLAGS = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT | os.O_SEQUENTIAL
else:
    _FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

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


def observe_file(root: Path, path: bytes, *, own: int | None = None) -> Observation | AccessProblem:
    """The state of a file, relative to the inbox, and of its sidecar. Opens nothing. `own`: see `find_local_device`."""
    place = join_path(root, path)
    try:
        file = os.lstat(place)
    except OSError as error:
        return _classify_error(error)
    if not stat.S_ISREG(file.st_mode):
        return AccessProblem.GONE
    sidecar = _stat_sidecar(place)
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
        with _open_regular_file(root, path) as file:
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


def find_holder(root: Path, path: bytes) -> OpenFile | None:
    """Who has the file open for writing; None if nobody has, or it cannot be known."""
    return openness.find_holder(join_path(root, path))


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
    return find_holder(root, path) is not None


def read_sidecar(root: Path, path: bytes, expected: Signature) -> bytes | AccessProblem:
    """The bytes of the sidecar of the file at `path`. Raises FileFault (`bad_sidecar`): too large, or unreadable."""
    if expected.size > SIDECAR_BYTES:
        raise sidecar_error(f"it has {expected.size} bytes; {SIDECAR_BYTES} are allowed")
    try:
        with _open_regular_file(root, path + SIDECAR_ENDING.encode()) as file:
            data = file.read(SIDECAR_BYTES + 1)
            return data if _read_signature(file) == expected else AccessProblem.CHANGED
    except OSError as error:
        trouble = _classify_error(error)
        if trouble in {AccessProblem.GONE, AccessProblem.LOCKED}:
            return AccessProblem.CHANGED
        if trouble is AccessProblem.DENIED:
            return AccessProblem.SIDECAR_DENIED
        raise sidecar_error(trouble.value) from error


@contextmanager
def _open_regular_file(root: Path, path: bytes) -> Iterator[FileIO]:
    """A regular file below `root`, opened without following a link and without waiting for whoever has it."""
    place = join_path(root, path)
    with FileIO(place, opener=lambda name, _flags: os.open(name, _FLAGS)) as file:
        if leads_outside(root, path) or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file of this inbox", place)
        yield file


def _read_signature(file: FileIO) -> Signature:
    return Signature.of(os.fstat(file.fileno()))


def _stat_sidecar(place: bytes) -> os.stat_result | None:
    try:
        sidecar = os.lstat(place + SIDECAR_ENDING.encode())
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
