"""`speakeasyd retry`"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import open_for_changes
from speakeasyd.cli.output import console, print_json
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.readonly import LEDGER, find_matching_jobs


def command(
    jobs: Annotated[list[int] | None, typer.Argument(metavar="JOB...", help="Job numbers.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="A condition over job_status.")
    ] = None,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Retry ended jobs: those given, and those that match a condition.

    One that was completed keeps its transcript until the new one is whole.

    For example: speakeasyd retry --where "error_code = 'out_of_memory' and created_at > '2026-01-01'"
    """
    if not jobs and not where:
        raise typer.BadParameter("give job numbers, or --where")
    folder = given.find_state_folder(config, state)
    matching = find_matching_jobs(folder / LEDGER, where) if where else []
    retried = asyncio.run(_retry_jobs(folder, [*(jobs or []), *matching]))
    refused = sorted(set(jobs or ()) - set(retried))
    if as_json:
        print_json({"retried": retried, "refused": refused})
    else:
        out = console()
        out.print(f"{len(retried)} to retry{': ' if retried else ''}{given.format_list(retried)}")
        if refused:
            out.print(
                f"not {given.format_list(refused)}: unknown, not ended, or about a version of the file that is gone"
            )
        if retried and not find_holder(folder):
            out.print("The daemon is down; they start when it runs.")
    return 1 if refused else 0


async def _retry_jobs(state: Path, jobs: list[int]) -> list[int]:
    async with open_for_changes(state) as ledger:
        return [int(job_id) for job_id in await ledger.retry_jobs(jobs)]
