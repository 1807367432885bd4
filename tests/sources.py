"""References to files that lie anywhere on this machine."""

import os
from pathlib import Path

from speakeasyd.domain.protocol import SourceRef


class EveryFolder(dict[str, str]):
    """Every folder of this machine, named by its own path."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name


def refer_to(path: Path) -> SourceRef:
    return SourceRef(str(path.parent), os.fsencode(path.name))
