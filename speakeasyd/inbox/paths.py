"""From a path below an inbox to a place on disk."""

import os
from itertools import accumulate
from pathlib import Path

from speakeasyd.safe_open import is_link


def join_path(root: Path, path: bytes) -> bytes:
    """Bytes, since names need not be text, and no Path, since a hundred thousand of them cost seconds."""
    return os.path.join(os.fsencode(root), path)  # noqa: PTH118


def leads_outside(root: Path, path: bytes) -> bool:
    """Whether any part of `path` below `root` is a link, so that it may lead out of the inbox. Raises OSError."""
    parts = accumulate(path.split(b"/"), lambda front, part: front + b"/" + part)
    return any(is_link(os.lstat(join_path(root, part))) for part in parts)
