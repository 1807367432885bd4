"""Which filesystems tell no events of what other machines do, so that only scanning finds it."""

from collections.abc import Iterable
from pathlib import Path, PurePath

import psutil

_SILENT = frozenset(
    {
        "9p",  # WSL's Windows drives, virtual machines
        "acfs",
        "afpfs",
        "afs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "drvfs",
        "fakeowner",  # Docker Desktop
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.grpcfuse",
        "fuse.osxfs",
        "fuse.portal",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "fuse.vmhgfs-fuse",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "prl_fs",
        "smb2",
        "smb3",
        "smbfs",
        "sshfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "webdav",
    }
)


def silent_filesystem(folder: Path) -> str | None:
    """The kind of network or container filesystem that `folder` is on; None where events can be relied on. Blocks."""
    place = folder.resolve()
    if place.drive.startswith("\\\\"):
        return "a network share"
    mounts = [(PurePath(part.mountpoint), _kind(part.fstype, part.opts)) for part in psutil.disk_partitions(all=True)]
    kind = deepest(place, mounts)
    return kind if kind in _SILENT else None


def deepest(folder: PurePath, mounts: Iterable[tuple[PurePath, str]]) -> str:
    """The type of the deepest mount above `folder`, of two at one place the later."""
    depth, found = -1, ""
    for place, kind in mounts:
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            depth, found = len(place.parts), kind.lower()
    return found


def _kind(fstype: str, options: str) -> str:
    """Windows gives a network drive the type of the server's disk, and says `remote` among the options."""
    return "smbfs" if "remote" in options.split(",") else fstype
