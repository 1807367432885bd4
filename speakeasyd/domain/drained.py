"""What a run until the inboxes are empty has come to: the outcome of `speakeasyd once`."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Left:
    """A file that was not transcribed, and why, for people."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    ended: Mapping[str, int]  # jobs that ended meanwhile, by status
    failed: tuple[Left, ...]  # those of them that failed
    left: tuple[Left, ...]  # what waits for the next run
    untaken: tuple[str, ...]  # files that the configuration leaves out, by name
    troubles: tuple[
        str, ...
    ] = ()  # what kept it from more, whether or not it is known to concern a file

    @property
    def exit_status(self) -> int:
        """0: all that is taken is done. 1: something failed or is left."""
        return int(bool(self.failed or self.left or self.troubles))
