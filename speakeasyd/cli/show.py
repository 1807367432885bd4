"""`speakeasyd show`"""

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import build_cell, console, format_local_time, print_json, print_text
from speakeasyd.domain.error_hints import find_hint
from speakeasyd.domain.escaping import escape_line
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.job_details import find_job_row, load_details, load_text
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import ReadConnection, Row

_TIMES = frozenset({"created_at", "started_at", "finished_at", "available_at"})


def command(
    job: Annotated[int, typer.Argument(metavar="JOB", help="Job number.")],
    text: Annotated[bool, typer.Option("--text", help="Print only the text so far.")] = False,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Show one job: its state, attempts, artifacts and incidents."""
    folder = given.find_state_folder(config, state)
    found = read_ledger(folder, _load_report, job)
    if found is None:
        raise SpeakeasyError(f"there is no job {job}", hint="`speakeasyd jobs` lists them.")
    if as_json:
        print_json(found.row | found.details | {"text": found.text})
    elif text:
        print_text(found.text)
    else:
        _print_job(found.row, found.details)
    return 0


@dataclass(frozen=True, slots=True)
class _JobReport:
    row: Row
    details: dict[str, list[Row]]
    text: str


def _load_report(connection: ReadConnection, job: int) -> _JobReport | None:
    row = find_job_row(connection, job)
    if row is None:
        return None
    return _JobReport(row, load_details(connection, job), load_text(connection, job))


def _print_job(job: Row, more: dict[str, list[Row]]) -> None:
    out = console()
    for name, value in job.items():
        if value not in (None, ""):
            out.print(
                Text(f"{name:<21}", "dim")
                + build_cell(name, format_local_time(value) if name in _TIMES else value),
                soft_wrap=True,
            )
    lines = {
        "attempts": map(_format_attempt, more["attempts_made"]),
        "artifacts": map(_format_artifact, more["artifacts"]),
    }
    for title, entries in (lines | {"incidents": map(_format_incident, more["incidents"])}).items():
        for number, line in enumerate(entries):
            out.print(
                Text(f"{'' if number else title:<21}", "dim") + Text(escape_line(line), "none"),
                soft_wrap=True,
            )
    if advice := find_hint(job["error_code"]):
        out.print(f"\n{advice}", markup=False)


def _format_attempt(row: Row) -> str:
    why = f": {row['error_code']}, {row['error']}" if row["error_code"] else ""
    return f"{format_local_time(row['started_at'])}  {row['outcome'] or 'in progress'}{why}"


def _format_artifact(row: Row) -> str:
    return f"{row['outbox']}/{row['path']}  {row['bytes']} bytes{'' if row['written_at'] else ', not written yet'}"


def _format_incident(row: Row) -> str:
    return f"{format_local_time(row['at'])}  {row['device']}: {row['error']}; {row['action']}"
