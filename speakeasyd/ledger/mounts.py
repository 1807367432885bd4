"""Where a ledger must not lie: SQLite's locks and shared memory do not hold between machines."""

from collections.abc import Iterable
from pathlib import Path, PurePath

import psutil

from speakeasyd.errors import LedgerError

_NETWORK = frozenset(
    {
        "9p",
        "afpfs",
        "afs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb2",
        "smb3",
        "smbfs",
        "sshfs",
        "vboxsf",
        "webdav",
    }
)


def refuse_network(ledger: Path) -> None:
    """Raises LedgerError when `ledger` would lie on a network filesystem, or in a folder shared with a host machine."""
    folder = ledger.parent.resolve()
    mounts = [(PurePath(part.mountpoint), _kind(part.fstype, part.opts)) for part in psutil.disk_partitions(all=True)]
    kind = "UNC path" if folder.drive.startswith("\\\\") else filesystem(folder, mounts)
    if kind in _NETWORK or kind == "UNC path":
        raise LedgerError(
            f"the ledger {ledger} would lie on a network filesystem ({kind}), where SQLite loses data",
            hint="Choose a state folder on a disk of this machine; inboxes and outboxes may stay on the network.",
        )


def filesystem(folder: PurePath, mounts: Iterable[tuple[PurePath, str]]) -> str:
    """The type of the deepest mount above `folder`; of two at one place, of the later."""
    deepest, found = -1, ""
    for place, kind in mounts:
        if folder.is_relative_to(place) and len(place.parts) >= deepest:
            deepest, found = len(place.parts), kind.lower()
    return found


def _kind(fstype: str, options: str) -> str:
    """Windows gives a network drive the type of the server's disk, and says `remote` among the options."""
    return "smbfs" if "remote" in options.split(",") else fstype
