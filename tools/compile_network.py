"""Compiles the packed network: `python -m tools.compile_network`, in a checkout.

The installation of speakeasyd does it, too (`hatch_build.py`).
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from speakeasyd.engine.whisper.packed_library import LIBRARIES, SOURCES, compute_checksum

_AVX512 = "-mavx2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c"
_OPTIONS = {  # of the compiler
    "AMX": f"{_AVX512} -mamx-tile -mamx-int8",
    "AVX-512": _AVX512,
    "AVX2": "-mavx2 -mfma -mf16c",
}

# GCC for Windows does not align vectors on the stack
_COMPILERS = ("clang",) if sys.platform == "win32" else ("cc", "gcc", "clang")


class NotCompiled(Exception):
    """There is no compiler, or it failed."""


def compile_network(target: Path) -> list[Path]:
    """Compile the libraries into the folder `target`. Raises NotCompiled.

    A compiler that does not know AVX-512 compiles the other one.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        raise NotCompiled(f"there is no packed network for {platform.machine()}")
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if not compiler:
        raise NotCompiled("no C compiler was found")
    common = (
        *shlex.split(compiler),
        *("-O3", "-std=gnu11", "-fwrapv", "-shared"),
        *(() if sys.platform == "win32" else ("-fPIC", "-fvisibility=hidden")),
        f"-DSOURCE_CHECKSUM={compute_checksum(SOURCES)}u",
    )
    sources = sorted(map(str, SOURCES.glob("*.c")))
    compiled, errors = [], []
    for instructions, name in LIBRARIES.items():
        partial, library = target / f"{name}.part", target / name
        options = _OPTIONS[instructions].split()
        command = [*common, *options, "-o", str(partial), *sources]
        try:
            _run([*command, *(() if sys.platform == "win32" else ("-lm",))])
            partial.replace(library)  # whoever loads it gets a whole one
        except OSError as error:
            errors.append(f"{compiler}: {error}")
        else:
            compiled.append(library)
    if not compiled:
        raise NotCompiled("; ".join(errors))
    return compiled


def _run(command: Sequence[str]) -> None:
    """Raises OSError, also if the command fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"exit status {done.returncode}")


if __name__ == "__main__":
    print(*compile_network(SOURCES), sep="\n")
