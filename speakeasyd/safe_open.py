"""Files below a folder, reached without following a link on the way.

Others may write to an inbox. A path that was checked and is then opened by name can be replaced by a link in between.
On POSIX each folder is opened relative to the one above it, and files relative to their folder, so what was checked is
what is used. Windows has no such calls: there each part is checked before and after it is opened.

The top folder itself may be a link: its owner configured it. Everything here blocks: call it in a thread.
"""

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Self

POSIX = sys.platform != "win32"

if sys.platform == "win32":
    READ_FLAGS = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT | os.O_SEQUENTIAL
    _CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_BINARY | os.O_NOINHERIT
    _FOLDER_FLAGS = 0
else:
    READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    _CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    _FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_UNSAFE_PARTS = frozenset({"", ".", ".."})
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
)


class LinkRefused(OSError):
    """A part of the path is a link, or is no longer the file that was checked.

    It may be a plain file again a moment later, so callers may try again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            errno.ELOOP, "a link, which may lead elsewhere, is not followed", str(path)
        )


class FolderHandle:
    """An open folder. Names are single parts; close it, or use it in a `with` block."""

    def __init__(self, path: Path, descriptor: int | None, *, is_root: bool = False) -> None:
        self.path = path  # for messages, and for Windows
        self._descriptor = descriptor  # None on Windows, and once closed
        self._is_root = is_root

    @classmethod
    def open(cls, root: Path, relative: str | bytes = "", *, create: bool = False) -> Self:
        """The folder `relative` ('/' between parts) below `root`. `create`: make what is missing, durably.

        Raises LinkRefused, NotADirectoryError for a part that is something else, or another OSError.
        """
        with cls._open_root(root) as top:
            return top.open_below(relative, create=create)

    @classmethod
    def _open_root(cls, root: Path) -> Self:
        if POSIX:
            return cls(root, os.open(root, _FOLDER_FLAGS), is_root=True)
        if not root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(root))
        return cls(root, None, is_root=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def identity(self) -> tuple[int, int]:
        """Device and inode: equal for the same folder only."""
        state = os.stat(self.path) if self._descriptor is None else os.fstat(self._descriptor)  # noqa: PTH116
        return state.st_dev, state.st_ino

    def is_at_its_path(self) -> bool:
        """Whether the path still leads to this folder, rather than to another that was mounted or moved there."""
        try:
            state = self.path.stat()
        except OSError:
            return False
        return (state.st_dev, state.st_ino) == self.identity()

    # --- folders

    def open_below(self, relative: str | bytes, *, create: bool = False) -> Self:
        """As `open`, starting from this folder, wherever its path may lead by now."""
        descriptor = os.dup(self._descriptor) if self._descriptor is not None else None
        folder = type(self)(self.path, descriptor, is_root=self._is_root)
        for part in split_path(relative, empty_allowed=True):
            try:
                below = folder.enter(part, create=create)
            finally:
                folder.close()
            folder = below
        return folder

    def enter(self, name: str, *, create: bool = False) -> Self:
        """A folder in this one. Raises LinkRefused, NotADirectoryError, or another OSError."""
        self._check(name)
        if create:
            self.make_folder(name)
        path = self.path / name
        if self._descriptor is None:
            _require_folder(self.stat(name), path)
            return type(self)(path, None)
        try:
            descriptor = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}:
                _require_folder(self.stat(name), path)
                raise LinkRefused(
                    path
                ) from error  # it is a folder now, and was a link a moment ago
            raise
        return type(self)(path, descriptor)

    def make_folder(self, name: str) -> bool:
        """Durably. False: the name is taken, by whatever it is."""
        self._check(name)
        try:
            os.mkdir(self._place(name), dir_fd=self._descriptor)
        except FileExistsError:
            return False
        self.sync()
        return True

    def remove_folder(self, name: str) -> None:
        self._check(name)
        os.rmdir(self._place(name), dir_fd=self._descriptor)

    def names(self) -> list[str]:
        return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208

    # --- files

    def stat(self, name: str) -> os.stat_result:
        """Of the name itself, never of what a link leads to."""
        self._check(name)
        return os.stat(self._place(name), dir_fd=self._descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Whether the name is taken, by a link as well."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def open_file(self, name: str) -> FileIO:
        """A regular file, for reading. Raises LinkRefused for a link, FileNotFoundError for anything else.

        Does not wait for a pipe's other end, nor for whoever has the file locked.
        """
        before = self.stat(name)
        path = self.path / name
        if is_link(before):
            raise LinkRefused(path)
        if not stat.S_ISREG(before.st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", str(path))
        try:
            file = FileIO(os.open(self._place(name), READ_FLAGS, dir_fd=self._descriptor), "r")
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.EMLINK, errno.ENXIO}:
                raise LinkRefused(path) from error
            raise
        opened = os.fstat(file.fileno())
        if not stat.S_ISREG(opened.st_mode) or not _same_file(opened, before):
            file.close()
            raise LinkRefused(path)
        return file

    def create_file(self, name: str) -> BinaryIO:
        """For writing and reading. Raises FileExistsError where the name is taken, by a link as well."""
        self._check(name)
        return os.fdopen(
            os.open(self._place(name), _CREATE_FLAGS, 0o666, dir_fd=self._descriptor), "w+b"
        )

    @contextmanager
    def temporary_folder(self, prefix: str) -> Iterator["FolderHandle"]:
        """A folder of this one for files that are moved away; what is left in it is removed at the end."""
        name = f"{prefix}{secrets.token_hex(8)}"
        if not self.make_folder(name):
            raise FileExistsError(errno.EEXIST, "the name is taken", str(self.path / name))
        try:
            with self.enter(name) as folder:
                try:
                    yield folder
                finally:
                    with suppress(OSError):
                        for left in folder.names():
                            folder.remove_file(left)
        finally:
            with suppress(OSError):
                self.remove_folder(name)

    @contextmanager
    def draft(self) -> Iterator[tuple[str, BinaryIO]]:
        """A temporary file, its name and itself; removed at the end if it has not been moved."""
        name = f".{secrets.token_hex(8)}.speakeasyd-tmp"
        file = self.create_file(name)
        try:
            with file:
                yield name, file
        finally:
            with suppress(OSError):
                self.remove_file(name)

    def remove_file(self, name: str) -> None:
        self._check(name)
        os.unlink(self._place(name), dir_fd=self._descriptor)

    def move_to(self, name: str, target: "FolderHandle", new_name: str) -> bool:
        """Give a file another place on the same filesystem. False: the name is taken. Never over another file."""
        self._check(name)
        target._check(new_name)
        source, wanted = self._place(name), target._place(new_name)
        try:
            os.link(
                source,
                wanted,
                src_dir_fd=self._descriptor,
                dst_dir_fd=target._descriptor,
                follow_symlinks=not POSIX,
            )
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS and POSIX:
                raise
            if target.has(new_name):  # a filesystem without hard links
                return False
            os.rename(source, wanted, src_dir_fd=self._descriptor, dst_dir_fd=target._descriptor)
        else:
            self.remove_file(name)
        return True

    def replace_to(self, name: str, target: "FolderHandle", new_name: str) -> None:
        """Move a file, over another if there is one."""
        self._check(name)
        target._check(new_name)
        os.replace(
            self._place(name),
            target._place(new_name),
            src_dir_fd=self._descriptor,
            dst_dir_fd=target._descriptor,
        )

    def sync(self) -> None:
        """Have the names in this folder on the disk. Windows keeps them in its journal and cannot be asked."""
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in {
                errno.EINVAL,
                errno.ENOTSUP,
            }:  # some network filesystems know no such thing
                raise

    # --- inside

    def _place(self, name: str) -> str:
        """What the system's calls take: a name relative to the descriptor, or on Windows a path."""
        return name if self._descriptor is not None else str(self.path / name)

    def _check(self, name: str) -> None:
        if name in _UNSAFE_PARTS or "/" in name or "\0" in name or (not POSIX and "\\" in name):
            raise ValueError(f"{name!r} is not the name of a file in a folder")
        if POSIX and self._descriptor is None:
            raise ValueError(f"{self.path} has been closed")
        if not POSIX and not self._is_root:
            _require_folder(self.path.lstat(), self.path)


def open_below(root: Path, path: str | bytes) -> FileIO:
    """A regular file below `root`, for reading, no part of whose path is a link. Raises LinkRefused or OSError."""
    *above, name = split_path(path)
    with FolderHandle.open(root, "/".join(above)) as folder:
        return folder.open_file(name)


def stat_below(root: Path, path: str | bytes) -> os.stat_result:
    """What is at `path` below `root`, no part above which is a link. Raises LinkRefused or OSError."""
    *above, name = split_path(path)
    with FolderHandle.open(root, "/".join(above)) as folder:
        return folder.stat(name)


def split_path(path: str | bytes, *, empty_allowed: bool = False) -> list[str]:
    """The parts of a relative path. Raises ValueError for one that leads upwards or nowhere."""
    text = os.fsdecode(path)
    parts = text.split("/") if text else []
    if any(part in _UNSAFE_PARTS for part in parts) or not (parts or empty_allowed):
        raise ValueError(f"{text!r} is not a path below a folder")
    return parts


def is_link(state: os.stat_result) -> bool:
    """What `lstat` says of a symlink, or of a junction: Windows' other kind of link between folders."""
    if sys.platform == "win32" and state.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT:
        return True
    return stat.S_ISLNK(state.st_mode)


def _require_folder(state: os.stat_result, path: Path) -> None:
    if is_link(state):
        raise LinkRefused(path)
    if not stat.S_ISDIR(state.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "no folder", str(path))


def _same_file(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
