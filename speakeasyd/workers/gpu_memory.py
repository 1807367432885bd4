"""Available memory of this machine's NVIDIA GPUs."""

import asyncio
import csv
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress

from speakeasyd.domain.devices import is_gpu
from speakeasyd.domain.worker_pool import WorkerStatus

ANSWER_S = 10.0  # seconds for nvidia-smi; with a faulty driver it may never end
_TOTALS = ("--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits")
_OURS = ("--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits")


def list_gpu_workers(workers: Iterable[WorkerStatus]) -> list[int]:
    """Return the process ids of the workers that have a model on a GPU."""
    return [
        worker.pid for worker in workers if worker.pid and worker.model and is_gpu(worker.device)
    ]


async def read_gpu_available_mb(ours: Collection[int], *, tool: str = "nvidia-smi") -> float | None:
    """Return the memory in MB that we can use on the GPU with the least: free or used by `ours`.

    `ours`: process ids. None if unknown: without the tool, or if it does not list our processes,
    as in most containers.
    """
    program = shutil.which(tool)
    if program is None:
        return None
    free = await _run_tool(program, *_TOTALS)
    held = await _run_tool(program, *_OURS) if ours else []
    return find_least_mb(free, held, ours)


def find_least_mb(
    free: list[list[str]], held: list[list[str]], ours: Collection[int]
) -> float | None:
    """Return the least MB from nvidia-smi's rows; None if they do not tell.

    `free`: GPU and free MB. `held`: GPU, process id and its MB.
    """
    try:
        left = {gpu: float(mb) for gpu, mb in free}
        mine = [(gpu, float(mb)) for gpu, pid, mb in held if int(pid) in ours]
    except ValueError:  # such as [N/A]
        return None
    if not left or (ours and not mine):
        return None
    for gpu, mb in mine:
        left[gpu] = left.get(gpu, 0.0) + mb
    return min(left.values())


async def _run_tool(program: str, *arguments: str) -> list[list[str]]:
    """Return the cells of the tool's CSV output; empty if it fails."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), ANSWER_S)
    except TimeoutError:
        return []
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    lines = out.decode(errors="replace").splitlines() if process.returncode == 0 else []
    return [[cell.strip() for cell in row] for row in csv.reader(lines) if row]
