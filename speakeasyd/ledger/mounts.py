"""Where a ledger must not lie: SQLite's locks and shared memory do not hold between machines."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import psutil

from speakeasyd.errors import LedgerError

Mount = tuple[PurePath, str]  # where, and the type of filesystem

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


def refuse_network(ledger: Path, mounts: Sequence[Mount] | None = None) -> None:
    """Raises LedgerError when `ledger` would lie on a network filesystem, or in a folder shared with a host machine."""
    folder = ledger.parent.resolve()
    kind = "UNC path" if folder.drive.startswith("\\\\") else filesystem(folder, mounts or _mounts())
    if kind in _NETWORK or kind == "UNC path":
        raise LedgerError(
            f"the ledger {ledger} would lie on a network filesystem ({kind}), where SQLite loses data",
            hint="Choose a state folder on a disk of this machine; inboxes and outboxes may stay on the network.",
        )


def filesystem(folder: PurePath, mounts: Iterable[Mount]) -> str:
    """The type of the deepest mount above `folder`; of two at one place, of the later."""
    deepest, found = -1, ""
    for place, kind in mounts:
        if folder.is_relative_to(place) and len(place.parts) >= deepest:
            deepest, found = len(place.parts), kind.lower()
    return found


def _mounts() -> list[Mount]:
    """Windows gives a network drive the type of the server's disk, and says `remote` among the options."""
    return [
        (PurePath(part.mountpoint), "smbfs" if "remote" in part.opts.split(",") else part.fstype)
        for part in psutil.disk_partitions(all=True)
    ]
