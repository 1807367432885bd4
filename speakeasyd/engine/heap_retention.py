"""The worker's memory, where glibc keeps it: held while a model works, given back when it is gone."""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_USUAL, _LARGE = (
    128 << 10,
    1 << 30,
)  # bytes: glibc's own, and more than any block that a model asks for


def retain_freed_pages() -> None:
    """Keep what is freed for what comes next.

    Over a window of 30 s the encoder asks for blocks of more than 32 MB. glibc takes such from the system and gives
    them back one by one: a fifth of the encoder's time went into page faults.
    """
    _set_trim_threshold(_LARGE)


def return_freed_pages() -> None:
    """Give back what is free, and what becomes so: loading a model leaves 100 MB behind."""
    _set_trim_threshold(_USUAL)


def _set_trim_threshold(threshold: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 1)  # a heap for each thread costs 100 MB for nothing
            libc.mallopt(_M_MMAP_THRESHOLD, threshold)
            libc.mallopt(_M_TRIM_THRESHOLD, threshold)
            libc.malloc_trim(0)
