"""A failure that is not the file's: where it happened matters as much as what it says."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from speakeasyd.errors import FileFault

Phase = Literal["load", "canary", "encode", "generate", "align", "vad", "decode", "host"]


class EngineFault(Exception):
    """Something else than a file failed. `__cause__` is the original."""

    def __init__(self, phase: Phase, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.phase: Phase = phase


@contextmanager
def label_phase(phase: Phase) -> Iterator[None]:
    """Name the phase of whatever fails inside."""
    try:
        yield
    except (EngineFault, FileFault):
        raise
    except Exception as error:
        raise EngineFault(phase, error) from error
