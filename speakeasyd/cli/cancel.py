"""`speakeasyd cancel`"""

import asyncio
from pathlib import Path

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import open_for_changes
from speakeasyd.cli.output import console, print_json


def command(
    jobs: given.JobIds,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Cancel jobs that have not ended. A running daemon stops them within a second."""
    folder = given.find_state_folder(config, state)
    cancelled = asyncio.run(_cancel_jobs(folder, jobs))
    refused = sorted(set(jobs) - set(cancelled))
    if as_json:
        print_json({"cancelled": cancelled, "refused": refused})
    else:
        out = console()
        out.print(
            f"{len(cancelled)} cancelled{': ' if cancelled else ''}{given.format_list(cancelled)}"
        )
        if refused:
            out.print(f"not {given.format_list(refused)}: unknown, or ended already")
    return 1 if refused else 0


async def _cancel_jobs(state: Path, jobs: list[int]) -> list[int]:
    async with open_for_changes(state) as ledger:
        return [int(job_id) for job_id in await ledger.cancel_jobs(jobs)]
