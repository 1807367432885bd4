"""`speakeasyd sql`"""

from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import console, print_csv, print_json, print_rows
from speakeasyd.ledger.readonly import LEDGER, query_readonly


def command(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One query, quoted.")],
    *,
    config: given.Config = None,
    state: given.State = None,
    by_line: given.ByLine = False,
    as_json: given.Json = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit of the query; 0: none.")
    ] = 60.0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> int:
    """Query the ledger in SQL, read-only: job_status, batch_progress, failures, incidents, throughput_hourly,
    transcript_text.

    For example: speakeasyd sql "SELECT path, error_code FROM failures"
    """
    ledger = given.find_state_folder(config, state) / LEDGER
    rows = query_readonly(ledger, query, limit_s=timeout or None)
    if as_json:
        print_json(rows)
    elif as_csv:
        print_csv(rows)
    elif rows:
        print_rows(rows, by_line=by_line)
    else:
        console().print("no rows")
    return 0
