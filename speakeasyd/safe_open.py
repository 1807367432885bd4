"""Access to files below a folder without following links on the way.

Other users may write to an inbox, and can replace a checked path by a link before it is opened by
name (a race condition). On POSIX, each folder is opened relative to its parent and each file
relative to its folder, so the checked file is the one that is used. Windows has no such calls: each
part is checked before and after it is opened.

The root folder itself may be a link: the owner configured it. All functions block: call them in a
thread.
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

_HAS_PROC = sys.platform == "linux" and os.path.isdir("/proc/self/fd")  # noqa: PTH112
_UNSAFE_PARTS = frozenset({"", ".", ".."})
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
)


class LinkRefused(OSError):
    """A part of the path is a link, or is no longer the file that was checked.

    Callers may retry: a moment later it may be a plain file again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            errno.ELOOP, "a link, which may lead elsewhere, is not followed", str(path)
        )


class NotRegular(FileNotFoundError):
    """There is no regular file of that name, but something else: a folder, a pipe, a device."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOENT, "not a regular file", str(path))


class FolderHandle:
    """An open folder. Names are single path parts. Close it, or use it in a `with` block."""

    def __init__(self, path: Path, descriptor: int | None, *, is_root: bool = False) -> None:
        self.path = path  # for messages, and for Windows
        self._descriptor = descriptor  # None on Windows, and once closed
        self._is_root = is_root

    @classmethod
    def open(cls, root: Path, relative: str | bytes = "", *, create: bool = False) -> Self:
        """Open the folder `relative` ('/' between parts) below `root`.

        `create`: create missing folders, durably. Raises LinkRefused, NotADirectoryError for a part
        that is not a folder, or another OSError.
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
        """Close the folder. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def identity(self) -> tuple[int, int]:
        """Return device and inode: equal for the same folder only."""
        state = os.stat(self.path) if self._descriptor is None else os.fstat(self._descriptor)  # noqa: PTH116
        return state.st_dev, state.st_ino

    def is_at_its_path(self) -> bool:
        """Return whether the path still leads to this folder.

        False if another folder was mounted or moved there.
        """
        try:
            state = self.path.stat()
        except OSError:
            return False
        return (state.st_dev, state.st_ino) == self.identity()

    # --- folders

    def open_below(self, relative: str | bytes, *, create: bool = False) -> Self:
        """As `open`, relative to this folder, even if its path has changed since."""
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
        """Open a folder in this one. Raises LinkRefused, NotADirectoryError, or another OSError."""
        self._check_name(name)
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
                # it is a folder now and was a link a moment ago
                raise LinkRefused(path) from error
            raise
        return type(self)(path, descriptor)

    def make_folder(self, name: str) -> bool:
        """Create a folder, durably. Returns False if the name is taken. Raises OSError."""
        self._check_name(name)
        try:
            os.mkdir(self._resolve_name(name), dir_fd=self._descriptor)
        except FileExistsError:
            return False
        self.sync()
        return True

    def remove_folder(self, name: str) -> None:
        self._check_name(name)
        os.rmdir(self._resolve_name(name), dir_fd=self._descriptor)

    def scan(self) -> "Iterator[os.DirEntry[str]]":
        """The entries of this folder. Their `path` is a whole path on Windows only."""
        with os.scandir(self.path if self._descriptor is None else self._descriptor) as entries:
            yield from entries

    def list_kinds(self) -> tuple[list[str], list[str]]:
        """The names of folders, and of everything else. None where the folder cannot be read."""
        folders: list[str] = []
        others: list[str] = []
        with suppress(OSError):
            for entry in self.scan():
                is_folder = entry.is_dir(follow_symlinks=False)
                (folders if is_folder else others).append(entry.name)
        return folders, others

    def names(self) -> list[str]:
        return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208

    # --- files

    def stat(self, name: str) -> os.stat_result:
        """Return the state of the name itself; links are not followed. Raises OSError."""
        self._check_name(name)
        return os.stat(self._resolve_name(name), dir_fd=self._descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Return whether the name exists; a link counts as well."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def open_file(self, name: str) -> FileIO:
        """Open a regular file for reading.

        Raises LinkRefused for a link, FileNotFoundError for anything else that is not a regular
        file. Never waits for the other end of a pipe or for a file lock.
        """
        before = self.stat(name)
        path = self.path / name
        if is_link(before):
            raise LinkRefused(path)
        if not stat.S_ISREG(before.st_mode):
            raise NotRegular(path)
        try:
            file = FileIO(
                os.open(self._resolve_name(name), READ_FLAGS, dir_fd=self._descriptor), "r"
            )
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
        """Create a file for writing and reading. Raises FileExistsError if the name exists."""
        self._check_name(name)
        return os.fdopen(
            os.open(self._resolve_name(name), _CREATE_FLAGS, 0o666, dir_fd=self._descriptor), "w+b"
        )

    @contextmanager
    def temporary_folder(self, prefix: str) -> Iterator["FolderHandle"]:
        """Create a folder in this one for files that are moved away.

        At the end of the `with` block it is removed with the files in it. Raises FileExistsError.
        """
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
        """Create a temporary file; yields its name and the open file.

        At the end of the `with` block it is removed if it was not moved.
        """
        name = f".{secrets.token_hex(8)}.speakeasyd-tmp"
        file = self.create_file(name)
        try:
            with file:
                yield name, file
        finally:
            with suppress(OSError):
                self.remove_file(name)

    def remove_file(self, name: str) -> None:
        self._check_name(name)
        os.unlink(self._resolve_name(name), dir_fd=self._descriptor)

    def move_to(self, name: str, target: "FolderHandle", new_name: str) -> bool:
        """Move a file on the same filesystem. Returns False if the name is taken; never replaces.

        Raises OSError.
        """
        self._check_name(name)
        target._check_name(new_name)
        source, wanted = self._resolve_name(name), target._resolve_name(new_name)
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
            if target.has(new_name):  # the filesystem has no hard links
                return False
            os.rename(source, wanted, src_dir_fd=self._descriptor, dst_dir_fd=target._descriptor)
        else:
            self.remove_file(name)
        return True

    def replace_to(self, name: str, target: "FolderHandle", new_name: str) -> None:
        """Move a file; replaces the target if it exists. Raises OSError."""
        self._check_name(name)
        target._check_name(new_name)
        os.replace(
            self._resolve_name(name),
            target._resolve_name(new_name),
            src_dir_fd=self._descriptor,
            dst_dir_fd=target._descriptor,
        )

    def sync(self) -> None:
        """Flush the directory entries of this folder to the disk. Raises OSError.

        Does nothing on Windows: NTFS journals directory entries and has no such call.
        """
        if self._descriptor is None:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # some network filesystems cannot sync a folder
            if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                raise

    # --- private

    def path_to_open(self, name: str) -> Path:
        """A path for calls that take no descriptor. On Linux it starts at this open folder."""
        self._check_name(name)
        if self._descriptor is None or not _HAS_PROC:
            return self.path / name
        return Path(f"/proc/self/fd/{self._descriptor}", name)

    def _resolve_name(self, name: str) -> str:
        """Return the path for a system call: relative to the descriptor; on Windows absolute."""
        return name if self._descriptor is not None else str(self.path / name)

    def _check_name(self, name: str) -> None:
        if name in _UNSAFE_PARTS or "/" in name or "\0" in name or (not POSIX and "\\" in name):
            raise ValueError(f"{name!r} is not the name of a file in a folder")
        if POSIX and self._descriptor is None:
            raise ValueError(f"{self.path} has been closed")
        if not POSIX and not self._is_root:
            _require_folder(self.path.lstat(), self.path)


def open_below(root: Path, path: str | bytes) -> FileIO:
    """Open a regular file below `root` for reading; no part of its path may be a link.

    Raises LinkRefused or another OSError.
    """
    *above, name = split_path(path)
    with FolderHandle.open(root, "/".join(above)) as folder:
        return folder.open_file(name)


def stat_below(root: Path, path: str | bytes) -> os.stat_result:
    """Return the state of `path` below `root`; no part above it may be a link.

    Raises LinkRefused or another OSError.
    """
    *above, name = split_path(path)
    with FolderHandle.open(root, "/".join(above)) as folder:
        return folder.stat(name)


def walk_folders(root: Path) -> Iterator[tuple[FolderHandle, list[str]]]:
    """Each folder from `root` downward, open, with the names of what is in it that is no folder.

    Follows no link. Leaves out folders that cannot be opened; raises OSError for `root` alone.
    """
    with FolderHandle.open(root) as top:
        pending = [""]
        while pending:
            relative = pending.pop()
            try:
                folder = top.open_below(relative)
            except OSError:
                continue
            with folder:
                folders, names = folder.list_kinds()
                below = f"{relative}/" if relative else ""
                pending += [below + name for name in folders]
                yield folder, names


def split_path(path: str | bytes, *, empty_allowed: bool = False) -> list[str]:
    """Return the parts of a relative path. Raises ValueError if it is empty or leads upwards."""
    text = os.fsdecode(path)
    parts = text.split("/") if text else []
    if any(part in _UNSAFE_PARTS for part in parts) or not (parts or empty_allowed):
        raise ValueError(f"{text!r} is not a path below a folder")
    return parts


def is_link(state: os.stat_result) -> bool:
    """Return whether `state` (from `lstat`) is a link: a symlink, or a junction of Windows."""
    if sys.platform == "win32" and state.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT:
        return True
    return stat.S_ISLNK(state.st_mode)


def _require_folder(state: os.stat_result, path: Path) -> None:
    if is_link(state):
        raise LinkRefused(path)
    if not stat.S_ISDIR(state.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "no folder", str(path))


def _same_file(first: os.stat_result, second: os.stat_result) -> bool:
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
