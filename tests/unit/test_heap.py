"""Memory of a worker's heap, counted in pages. Each test runs in its own process."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

BLOCK = "block = bytearray(64 << 20); del block"


def read_page_faults(*lines: str) -> int:
    begin = "import resource, psutil; from speakeasyd.engine import heap_retention"
    faults = "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt"
    code = "\n".join([begin, faults, *lines])
    return int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def test_a_repeated_large_block_needs_no_new_pages() -> None:
    again = ["before = faults()", BLOCK, "print(faults() - before)"]
    assert read_page_faults(BLOCK, *again) > 16_000  # of 4 KB each
    assert read_page_faults("heap_retention.retain_freed_pages()", BLOCK, *again) < 100


def test_freed_memory_is_returned() -> None:
    weigh = "resident = psutil.Process().memory_info().rss"
    assert (
        read_page_faults(
            "heap_retention.retain_freed_pages()",
            BLOCK,
            weigh,
            "heap_retention.return_freed_pages()",
            "print(resident - psutil.Process().memory_info().rss)",
        )
        > 60 << 20
    )
