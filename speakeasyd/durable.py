"""Atomic and durable file operations: files are complete or absent, also after a power failure."""

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.speakeasyd-tmp")


def private_mode(folder: Path) -> int:
    """Return the mode of a new file in `folder` that holds transcripts or secrets.

    The owner may read and write. The group gets the rights that it has on the folder.
    """
    return 0o600 | (folder.stat().st_mode & 0o060)


def give_to_folder_owner(path: Path) -> None:
    """Give a new file to the owner of its folder: a command of root must not shut out a service."""
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def create_private(path: Path) -> None:
    """Create an empty file that others cannot read, whatever the umask.

    Does nothing if the file exists.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    os.close(handle)
    path.chmod(private_mode(path.parent))
    give_to_folder_owner(path)


def write_private(path: Path, text: str) -> None:
    """Write a text file. A new file gets mode 0600; an existing file keeps its mode."""
    with os.fdopen(
        os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600),
        "w",
        encoding="utf-8",
        newline="\n",
    ) as file:
        file.write(text)


@contextmanager
def create_draft(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Create a temporary file, to be written and then renamed within its folder.

    It is removed at the end of the `with` block if it was not renamed.
    """
    path = folder / f".{secrets.token_hex(8)}.speakeasyd-tmp"
    try:
        with path.open("xb") as file:
            yield path, file
    finally:
        with suppress(OSError):  # if it could not be renamed, that error is being raised already
            path.unlink(missing_ok=True)


def sync_file(file: BinaryIO) -> None:
    """Flush what was written to the disk. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to the disk. Raises OSError.

    Does nothing on Windows: NTFS journals directory entries and has no such call.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network filesystems cannot sync a folder
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Create a folder and its missing parents, durably.

    Raises NotADirectoryError if another kind of file has the name of a folder.
    """
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError as error:  # it is not a folder: a retry would not help
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path)) from error
        sync_folder(path.parent)


def to_long_path(path: str, *, platform: str = sys.platform) -> str:
    """Return an absolute path in the form of Windows without the limit of 260 characters.

    Returns the path unchanged on other platforms.
    """
    if platform != "win32" or path.startswith("\\\\?\\"):
        return path
    return f"\\\\?\\UNC\\{path[2:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"
