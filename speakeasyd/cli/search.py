"""`speakeasyd search`"""

import re
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import format_position, print_json, print_rows
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import Row
from speakeasyd.ledger.search import TIME, SearchFilters, SearchHit, search_text


class Channel(StrEnum):
    LEFT = "left"
    RIGHT = "right"


def _parse_time(what: str) -> Any:
    def check(text: str | None) -> str | None:
        if text and not re.match(TIME, text):
            raise typer.BadParameter("give a date such as 2026-05-03 or 2026-05")
        return text

    return typer.Option(
        metavar="DATE",
        callback=check,
        help=f"Only files received {what}, UTC: 2026-05-03, 2026-05.",
    )


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORDS",
            help="All words, in any order; also `trans*`, `-not`, `'\"a phrase\"'`.",
        ),
    ],
    *,
    since: Annotated[str | None, _parse_time("from then on")] = None,
    until: Annotated[str | None, _parse_time("until then")] = None,
    batch: Annotated[str | None, typer.Option(help="Only in this batch.")] = None,
    preset: Annotated[str | None, typer.Option(help="Only of this preset.")] = None,
    channel: Annotated[
        Channel | None, typer.Option(help="Only this channel, if channels are split.")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this speaker says.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of matches.", min=1)] = 20,
    config: given.Config = None,
    state: given.State = None,
    by_line: given.ByLine = False,
    as_json: given.Json = False,
) -> int:
    """Search in transcripts, best matches first. Exit status 1: no matches."""
    folder = given.find_state_folder(config, state)
    side = None if channel is None else list(Channel).index(channel)
    filters = SearchFilters(
        since=since, until=until, batch=batch, preset=preset, channel=side, speaker=speaker
    )
    hits = read_ledger(folder, search_text, " ".join(words), limit=limit, filters=filters)
    if as_json:
        print_json([asdict(hit) for hit in hits])
    elif not hits:
        typer.echo("no matches", err=True)
    else:
        print_rows([_build_row(hit) for hit in hits], by_line=by_line, header=False)
    return 0 if hits else 1


def _build_row(hit: SearchHit) -> Row:
    text = hit.snippet.strip()
    return {
        "job": f"job {hit.job_id}",
        "path": hit.path,
        "at": format_position(hit.start),
        "text": f"{hit.speaker}: {text}" if hit.speaker else text,
    }
