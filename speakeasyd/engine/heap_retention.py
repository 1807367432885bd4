"""Settings of glibc's heap: freed memory is kept while a model works and returned afterwards."""

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_USUAL = 128 << 10  # bytes: glibc's default
_LARGE = 1 << 30  # bytes: more than any block that a model allocates


def retain_freed_pages() -> None:
    """Keep freed memory in the heap for later allocations.

    Over a window of 30 s CTranslate2's encoder allocates blocks of more than 32 MB. By default glibc
    maps and unmaps such blocks one by one, and a fifth of the encoder's time was spent in page
    faults.
    """
    _set_trim_threshold(_LARGE)


def return_freed_pages() -> None:
    """Return free memory to the system, now and later: loading a model leaves 100 MB free."""
    _set_trim_threshold(_USUAL)


def _set_trim_threshold(threshold: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_ARENA_MAX, 1)  # a heap for each thread wastes 100 MB
            libc.mallopt(_M_MMAP_THRESHOLD, threshold)
            libc.mallopt(_M_TRIM_THRESHOLD, threshold)
            libc.malloc_trim(0)
