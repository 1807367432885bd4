"""Engine failures that are not a file's, labelled with the phase in which they happened."""

from collections.abc import Iterator
from contextlib import contextmanager

from speakeasyd.domain.fault import Phase
from speakeasyd.errors import FileFault


class EngineFault(Exception):
    """A failure that is not a file's. `__cause__` is the original exception."""

    def __init__(self, phase: Phase, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.phase = phase


@contextmanager
def label_phase(phase: Phase) -> Iterator[None]:
    """Raise every exception of the block as EngineFault with this phase.

    EngineFault and FileFault pass unchanged.
    """
    try:
        yield
    except (EngineFault, FileFault):
        raise
    except Exception as error:
        raise EngineFault(phase, error) from error
