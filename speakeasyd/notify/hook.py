"""A command of the user, run after a transcript."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from speakeasyd.domain.notices import Delivered, Failed, Outcome

SAID = 500  # characters of its last words that are kept


async def run(command: Sequence[str], *, environment: Mapping[str, str], timeout_s: float) -> Outcome:
    """Run it to its end, without a shell. One that fails is not run again: it may have done half of its work."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=os.environ | environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except (OSError, ValueError) as error:
        return Failed(f"{command[0]} cannot be run: {error}", final=True)
    try:
        _, said = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        return Failed(f"it was killed after {timeout_s:g} s", final=True)
    finally:
        _kill(process)
        await process.wait()
    if process.returncode == 0:
        return Delivered()
    last_words = said.decode(errors="replace").strip()[-SAID:]
    return Failed(f"it ended with exit status {process.returncode}: {last_words}".rstrip(": "), final=True)


def _kill(process: asyncio.subprocess.Process) -> None:
    """With all that it started. Nothing, if it has ended."""
    if process.returncode is not None:
        return
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid)
        for member in [*family.children(recursive=True), family]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
