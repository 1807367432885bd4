"""From a path below an inbox to a place on disk."""

import os
import stat
import sys
from itertools import accumulate
from pathlib import Path


def locate(root: Path, path: bytes) -> bytes:
    """Bytes, since names need not be text, and no Path, since a hundred thousand of them cost seconds."""
    return os.path.join(os.fsencode(root), path)  # noqa: PTH118


def leaves(root: Path, path: bytes) -> bool:
    """Whether any part of `path` below `root` is a link, so that it may lead out of the inbox. Raises OSError."""
    parts = accumulate(path.split(b"/"), lambda front, part: front + b"/" + part)
    return any(is_link(os.lstat(locate(root, part))) for part in parts)


def is_link(state: os.stat_result) -> bool:
    """What `lstat` says of a symlink, or of a junction: Windows' other kind of link between folders."""
    if sys.platform == "win32" and state.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT:
        return True
    return stat.S_ISLNK(state.st_mode)
