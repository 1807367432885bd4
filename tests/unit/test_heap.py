"""What a worker's heap holds, and gives back: counted in pages, each test in a process of its own."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

BLOCK = "block = bytearray(64 << 20); del block"


def figure(*lines: str) -> int:
    begin = "import resource, psutil; from speakeasyd.engine import heap_retention"
    faults = "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt"
    code = "\n".join([begin, faults, *lines])
    return int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def test_a_large_block_that_comes_again_costs_no_pages() -> None:
    again = ["before = faults()", BLOCK, "print(faults() - before)"]
    assert figure(BLOCK, *again) > 16_000  # each of 4 KB
    assert figure("heap_retention.retain_freed_pages()", BLOCK, *again) < 100


def test_what_was_held_is_given_back() -> None:
    weigh = "resident = psutil.Process().memory_info().rss"
    assert (
        figure(
            "heap_retention.retain_freed_pages()",
            BLOCK,
            weigh,
            "heap_retention.return_freed_pages()",
            "print(resident - psutil.Process().memory_info().rss)",
        )
        > 60 << 20
    )
