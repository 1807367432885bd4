"""Files that are there as a whole or not at all, and stay there when the power goes."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.speakeasyd-tmp")


def private_mode(folder: Path) -> int:
    """For a new file that holds transcripts or secrets: the owner, and the group as far as it may use the folder."""
    return 0o600 | (folder.stat().st_mode & 0o060)


def create_private(path: Path) -> None:
    """An empty file that others cannot read, whatever the umask. Nothing if there is one."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.close(handle)
    path.chmod(private_mode(path.parent))


def write_private(path: Path, text: str) -> None:
    """A new file is for its owner alone; one that is there keeps its mode."""
    with os.fdopen(
        os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600),
        "w",
        encoding="utf-8",
        newline="\n",
    ) as file:
        file.write(text)


@contextmanager
def create_draft(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A temporary file to write and then rename within its folder; removed at the end if it has not been."""
    path = folder / f".{secrets.token_hex(8)}.speakeasyd-tmp"
    try:
        with path.open("xb") as file:
            yield path, file
    finally:
        with suppress(OSError):  # the reason why it is still there is on its way already
            path.unlink(missing_ok=True)


def sync_file(file: BinaryIO) -> None:
    """Have what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk. Windows keeps them in its journal and cannot be asked."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {
            errno.EINVAL,
            errno.ENOTSUP,
        }:  # some network filesystems know no such thing
            raise
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Create a folder and what is missing above it, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError as error:  # and is no folder: waiting would not help
            raise NotADirectoryError(
                errno.ENOTDIR, "something else has the name of a folder", str(path)
            ) from error
        sync_folder(path.parent)


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file with its times to a name that is free on another filesystem."""
    with create_draft(target.parent) as (path, file):
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, 1024 * 1024)
        sync_file(file)
        file.close()
        with suppress(OSError):  # not every filesystem keeps them
            shutil.copystat(source, path)
        path.rename(target)
    sync_folder(target.parent)


def remove_drafts(root: Path) -> None:
    """Remove temporary files that a crash has left anywhere below a folder."""
    for path in _list_files(root):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _list_files(root: Path) -> Iterable[Path]:
    for folder, _, names in os.walk(root):  # does not follow links
        for name in names:
            yield Path(folder, name)


def is_regular_file(path: Path) -> bool:
    """Whether a regular file is there, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def to_long_path(path: str, *, platform: str = sys.platform) -> str:
    """An absolute path in the form that Windows does not limit to 260 characters; elsewhere the path itself."""
    if platform != "win32" or path.startswith("\\\\?\\"):
        return path
    return f"\\\\?\\UNC\\{path[2:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"
