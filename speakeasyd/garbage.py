"""Python's search for cyclic garbage, where it only costs time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collection() -> Iterator[None]:
    """Import modules inside, without a search: they are kept, so it would find next to nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def skip_final_collection() -> None:
    """Leave what exists to the end of the process, which frees it at once."""
    gc.freeze()
