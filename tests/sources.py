"""References to source files anywhere on this machine."""

import os
from pathlib import Path

from speakeasyd.domain.protocol import SourceRef


class AllFolders(dict[str, str]):
    """Maps every folder of this machine from its own path, as `WorkerSpec.folders` does by name."""

    def __contains__(self, _name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name


def build_source_ref(path: Path) -> SourceRef:
    return SourceRef(str(path.parent), os.fsencode(path.name))
