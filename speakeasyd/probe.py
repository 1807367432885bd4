"""Runs a probe: a program in a process of its own, which a faulty device or file may end."""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


async def run_probe(
    *arguments: str, deadline_s: float, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run Python with these arguments; return the JSON object that the program prints on a line.

    The current folder is not searched for modules: it may have any. Other lines are ignored: on a
    GPU, CTranslate2 prints one, too. Without an object, the only key is `error`: that the program
    did not answer within `deadline_s` seconds, or the end of its output. Raises OSError if the
    process cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), deadline_s)
    except TimeoutError:
        return {"error": f"the probe did not answer within {deadline_s:.0f} s"}
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    for line in reversed(out.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    lines = err.decode(errors="replace").strip().splitlines()
    died = f"the probe died with exit status {process.returncode}"
    return {"error": lines[-1] if lines else died}
