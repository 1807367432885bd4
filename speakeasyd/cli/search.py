"""`speakeasyd search`"""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.changing import changing
from speakeasyd.cli.output import console, position, print_json
from speakeasyd.ledger.search import Hit


def command(
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS", help="All of them, in any order; `trans*` for a beginning.")
    ],
    limit: Annotated[int, typer.Option(help="How many places at most.", min=1)] = 20,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Find where words were said, the best first. Exit status 1: nowhere."""
    settings = given.settings(config, given.Flags(state=state))
    hits = asyncio.run(_search(settings.state, " ".join(words), limit))
    if as_json:
        print_json([asdict(hit) for hit in hits])
    else:
        out = console()
        for hit in hits:
            line = Text(f"job {hit.job_id}  {hit.path}  ", style="cyan")
            out.print(line + Text(f"{position(hit.start)}  ", style="dim") + Text(hit.snippet.strip(), style="none"))
    return 0 if hits else 1


async def _search(state: Path, words: str, limit: int) -> list[Hit]:
    async with changing(state) as ledger:
        return await ledger.search(words, limit=limit)
