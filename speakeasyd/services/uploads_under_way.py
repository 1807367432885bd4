"""What the intake has to know of uploads: which files they are placing, and with which options."""

from collections.abc import Mapping

from speakeasyd.domain.presets import Changes


class UploadsUnderWay:
    """Kept over reloads. `reserve` and `release` may be called by any thread."""

    def __init__(self) -> None:
        self._reserved: set[tuple[str, bytes]] = set()
        self._interrupted: Mapping[tuple[str, str], Changes] = {}

    def reserve(self, inbox: str, path: bytes) -> None:
        """Keep a path for an upload until its jobs are added: the scan must not add it."""
        self._reserved.add((inbox, path))

    def release(self, inbox: str, path: bytes) -> None:
        self._reserved.discard((inbox, path))

    def is_reserved(self, inbox: str, path: bytes) -> bool:
        return (inbox, path) in self._reserved

    def restore_interrupted(self, options: Mapping[tuple[str, str], Changes]) -> None:
        """Set the options of files whose upload an earlier daemon did not finish."""
        self._interrupted = options

    def find_options(self, inbox: str, sha256: str) -> Changes | None:
        """Return the options of a file whose upload was interrupted; None for any other file."""
        return self._interrupted.get((inbox, sha256))
