"""`speakeasyd jobs`"""

from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import console, format_duration, print_json, print_rows
from speakeasyd.domain.job import Status
from speakeasyd.ledger.job_lists import list_jobs
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import Row


def command(
    *,
    status: Annotated[Status | None, typer.Option(help="Only those that are so.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="Only those of this batch: a sub-folder, or the inbox's name."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    config: given.Config = None,
    state: given.State = None,
    by_line: given.ByLine = False,
    as_json: given.Json = False,
) -> int:
    """List jobs, the latest first."""
    folder = given.find_state_folder(config, state)
    filters = {"status": status, "batch": batch}
    rows = read_ledger(folder, list_jobs, filters, limit=limit)
    if as_json:
        print_json(rows)
    elif rows:
        print_rows([_shorten_row(row) for row in rows], by_line=by_line)
    else:
        console().print("no such jobs")
    return 0


def _shorten_row(row: Row) -> Row:
    seconds = row["audio_seconds"]
    return {
        "job": row["job_id"],
        "status": row["status"],
        "progress": row["progress"],
        "path": row["path"],
        "audio": format_duration(float(str(seconds))) if seconds is not None else None,
        "language": row["language"],
        "error": row["error_code"],
    }
