"""The outcome of `speakeasyd once`: a run until the inboxes are empty."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnfinishedFile:
    """A file that was not transcribed, with the reason as a message for users."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """What one run has done and left."""

    ended: Mapping[str, int]  # jobs that ended during the run, by status
    failed: tuple[UnfinishedFile, ...]  # those of them that failed
    unfinished: tuple[UnfinishedFile, ...]  # files that wait for the next run
    untaken: tuple[str, ...]  # names of files that the configuration excludes
    troubles: tuple[
        str, ...
    ] = ()  # what kept it from more, whether or not it is known to concern a file

    @property
    def exit_status(self) -> int:
        """0: every file was transcribed. 1: something failed or is left."""
        return int(bool(self.failed or self.unfinished or self.troubles))
