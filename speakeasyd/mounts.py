"""What kind of filesystem a folder is on, what those kinds cannot do, and whether it is mounted still."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath

import psutil

FSTAB = Path("/etc/fstab")

Mount = tuple[PurePath, str]  # where, and the type of filesystem

SHARE = "network share"  # a UNC path of Windows, whose server says no more

_NETWORK = """
    9p afpfs afs ceph cifs davfs fuse.ceph fuse.davfs2 fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs glusterfs lustre
    ncpfs nfs nfs4 smb2 smb3 smbfs sshfs vboxsf webdav
"""
NETWORK = frozenset({*_NETWORK.split(), SHARE})
"""Shared between machines: SQLite's locks and shared memory do not hold. 9p: WSL's Windows drives, guests' folders."""

_OTHERS = """
    acfs coda drvfs fakeowner fuse.gcsfuse fuse.grpcfuse fuse.osxfs fuse.portal fuse.vmhgfs-fuse gfs2 ocfs2 prl_fs
    virtiofs vmhgfs
"""
SILENT = NETWORK | frozenset(_OTHERS.split())
"""They tell no events of what other machines do: only scanning finds it. fakeowner: Docker Desktop."""


class MountAnchor:
    """A folder whose filesystem may be unmounted, which leaves an empty folder, or none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mount: Path | None = None  # of the filesystem that it was on when it was last there

    def is_present(self) -> bool:
        """Whether it is there; also when something was mounted on it that was not before. Blocks."""
        if not self._folder.is_dir():
            return False
        mount = find_mount_point(self._folder)
        if self._mount is None and _awaits_mount(self._folder, mount):
            return False
        if self._mount and len(mount.parts) < len(self._mount.parts):
            return False
        self._mount = mount
        return True


def _awaits_mount(folder: Path, mount: Path) -> bool:
    """Whether the system's table names this very folder as a mount point, and nothing is mounted on it.

    After a start nothing else tells it from an empty folder.
    """
    return folder != mount and folder in _configured_mounts()


def _configured_mounts() -> Iterator[Path]:
    """The mount points of /etc/fstab, mounted or not."""
    lines: list[str] = []
    with suppress(OSError):
        lines = FSTAB.read_text("utf-8", "replace").splitlines()
    for line in lines:
        words = line.split()
        if len(words) > 1 and not words[0].startswith("#") and words[1].startswith("/"):
            yield Path(re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), words[1]))


def find_mount_point(folder: Path) -> Path:
    """Where the filesystem that `folder` is on is mounted. Blocks."""
    return next(
        parent
        for parent in (folder, *folder.parents)
        if os.path.ismount(parent) or parent == parent.parent
    )


def find_filesystem_type(folder: Path, mounts: Iterable[Mount] | None = None) -> str:
    """The type of the filesystem that `folder` is on, in lower case; empty where it is not known. Blocks."""
    place = folder.resolve()
    return (
        SHARE
        if place.drive.startswith("\\\\")
        else find_deepest_mount(place, mounts or _list_mounts())
    )


def find_deepest_mount(folder: PurePath, mounts: Iterable[Mount]) -> str:
    """The type of the deepest mount above `folder`; of two at one place, of the later."""
    depth, found = -1, ""
    for place, kind in mounts:
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            depth, found = len(place.parts), kind.lower()
    return found


def _list_mounts() -> Iterable[Mount]:
    """Windows gives a network drive the type of the server's disk, and says `remote` among the options."""
    for part in psutil.disk_partitions(all=True):
        yield (
            PurePath(part.mountpoint),
            "smbfs" if "remote" in part.opts.split(",") else part.fstype,
        )
