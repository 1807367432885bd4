"""`speakeasyd jobs`"""

from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.asking import ask
from speakeasyd.cli.output import console, local, print_json, table
from speakeasyd.domain.job import Status

_JOBS = """
    SELECT * FROM job_status
    WHERE (:status IS NULL OR status = :status) AND (:batch IS NULL OR batch = :batch)
    ORDER BY job_id DESC LIMIT :limit
"""
_SHOWN = ("job_id", "status", "progress", "path", "audio_seconds", "language", "attempts", "error_code", "created_at")


def command(
    *,
    status: Annotated[Status | None, typer.Option(help="Only those that are so.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Only those of this batch: a sub-folder, or the inbox's name.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """List jobs, the latest first."""
    settings = given.settings(config, given.Flags(state=state))
    rows = ask(settings.state, _JOBS, {"status": status, "batch": batch, "limit": limit})
    if as_json:
        print_json(rows)
    elif rows:
        console().print(
            table([{name: row[name] for name in _SHOWN} | {"created_at": local(row["created_at"])} for row in rows])
        )
    else:
        console().print("no such jobs")
    return 0
