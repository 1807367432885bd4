"""Filesystem types of folders, what the types cannot do, and whether a folder is still mounted."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath

import psutil

FSTAB = Path("/etc/fstab")

Mount = tuple[PurePath, str]  # mount point, filesystem type

SHARE = "network share"  # the type given to a UNC path of Windows; the real type is not known

_NETWORK = """
    9p afpfs afs ceph cifs davfs fuse.ceph fuse.davfs2 fuse.glusterfs fuse.rclone fuse.s3fs
    fuse.sshfs glusterfs lustre ncpfs nfs nfs4 smb2 smb3 smbfs sshfs vboxsf webdav
"""
NETWORK = frozenset({*_NETWORK.split(), SHARE})
"""Filesystems shared between machines. SQLite's locks and shared memory do not work on them.

9p: Windows drives in WSL, shared folders of virtual machines.
"""

_OTHERS = """
    acfs coda drvfs fakeowner fuse.gcsfuse fuse.grpcfuse fuse.osxfs fuse.portal fuse.vmhgfs-fuse
    gfs2 ocfs2 prl_fs virtiofs vmhgfs
"""
SILENT = NETWORK | frozenset(_OTHERS.split())
"""Filesystems without events for changes made on other machines: only a scan finds those changes.

fakeowner: Docker Desktop.
"""


def explain_read_only(folder: Path) -> str:
    """Return what to do about a read-only folder in a service of systemd; empty outside of one.

    For such a service, all folders are read-only except those that its unit names.
    """
    if "INVOCATION_ID" not in os.environ:
        return ""
    return (
        f"Unless its disk is read-only, the unit lacks ReadWritePaths={folder}: as root, run "
        "`speakeasyd service install`, which writes it for each folder of the configuration."
    )


class MountAnchor:
    """Watches whether a folder is present.

    Unmounting its filesystem leaves an empty folder, or none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mount: Path | None = None  # mount point of its filesystem when it was last present

    def is_present(self) -> bool:
        """Return whether the folder exists and its filesystem is mounted. Blocks.

        A filesystem that was mounted on the folder since the last call counts as present.
        """
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
    """Return whether /etc/fstab names this folder as a mount point and nothing is mounted on it.

    Right after a start, this is the only way to tell such a folder from an empty one.
    """
    return folder != mount and folder in _configured_mounts()


def _configured_mounts() -> Iterator[Path]:
    """Yield the mount points of /etc/fstab, mounted or not."""
    lines: list[str] = []
    with suppress(OSError):
        lines = FSTAB.read_text("utf-8", "replace").splitlines()
    for line in lines:
        words = line.split()
        if len(words) > 1 and not words[0].startswith("#") and words[1].startswith("/"):
            yield Path(re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), words[1]))


def find_mount_point(folder: Path) -> Path:
    """Return the mount point of the filesystem that holds `folder`. Blocks."""
    return next(
        parent
        for parent in (folder, *folder.parents)
        if os.path.ismount(parent) or parent == parent.parent
    )


def find_filesystem_type(folder: Path, mounts: Iterable[Mount] | None = None) -> str:
    """Return the filesystem type of `folder` in lower case; empty if it is not known. Blocks."""
    path = folder.resolve()
    return (
        SHARE
        if path.drive.startswith("\\\\")
        else find_deepest_mount(path, mounts or _list_mounts())
    )


def find_deepest_mount(folder: PurePath, mounts: Iterable[Mount]) -> str:
    """Return the filesystem type of the deepest mount point that contains `folder`.

    If two filesystems are mounted at the same point, the later one counts.
    """
    depth, filesystem_type = -1, ""
    for mount_point, mount_type in mounts:
        if folder.is_relative_to(mount_point) and len(mount_point.parts) >= depth:
            depth, filesystem_type = len(mount_point.parts), mount_type.lower()
    return filesystem_type


def _list_mounts() -> Iterable[Mount]:
    """Yield the mounts of this machine.

    Windows reports the server's disk type for a network drive; the option `remote` marks the drive.
    """
    for part in psutil.disk_partitions(all=True):
        yield (
            PurePath(part.mountpoint),
            "smbfs" if "remote" in part.opts.split(",") else part.fstype,
        )
