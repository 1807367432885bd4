"""From a path below an inbox to a place on disk."""

import os
from pathlib import Path


def join_path(root: Path, path: bytes) -> bytes:
    """Bytes, since names need not be text, and no Path, since a hundred thousand of them cost seconds."""
    return os.path.join(os.fsencode(root), path)  # noqa: PTH118
