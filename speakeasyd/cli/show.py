"""`speakeasyd show`"""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import cell, console, local, print_json, print_text
from speakeasyd.domain.advice import what_to_do
from speakeasyd.domain.escaping import escape_line
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.asking import ask
from speakeasyd.ledger.dossier import details, job_row
from speakeasyd.ledger.reading import Row

_TEXT = "SELECT text FROM segments WHERE job_id = :job ORDER BY start_seconds, chunk, position"
_TIMES = frozenset({"created_at", "started_at", "finished_at", "available_at"})


def command(
    job: Annotated[int, typer.Argument(metavar="JOB", help="The number of a job.")],
    text: Annotated[bool, typer.Option("--text", help="Only what was said, so far.")] = False,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Everything about one job: its state, attempts, artifacts and incidents."""
    folder = given.settings(config, given.Flags(state=state)).state
    found = job_row(folder, job)
    if found is None:
        raise SpeakeasyError(f"there is no job {job}", hint="`speakeasyd jobs` lists them.")
    if as_json:
        print_json(found | details(folder, job) | {"text": said(folder, job)})
    elif text:
        print_text(said(folder, job))
    else:
        _print(found, details(folder, job))
    return 0


def said(state: Path, job: int) -> str:
    """What was said, as far as it is transcribed."""
    return "".join(str(row["text"]) for row in ask(state, _TEXT, {"job": job})).strip()


def _print(job: Row, more: dict[str, list[Row]]) -> None:
    out = console()
    for name, value in job.items():
        if value not in (None, ""):
            out.print(
                Text(f"{name:<21}", "dim") + cell(name, local(value) if name in _TIMES else value), soft_wrap=True
            )
    lines = {"attempts": map(_attempt, more["attempts_made"]), "artifacts": map(_artifact, more["artifacts"])}
    for title, said in (lines | {"incidents": map(_incident, more["incidents"])}).items():
        for number, line in enumerate(said):
            out.print(Text(f"{'' if number else title:<21}", "dim") + Text(escape_line(line), "none"), soft_wrap=True)
    if advice := what_to_do(job["error_code"]):
        out.print(f"\n{advice}", markup=False)


def _attempt(row: Row) -> str:
    why = f": {row['error_code']}, {row['error']}" if row["error_code"] else ""
    return f"{local(row['started_at'])}  {row['outcome'] or 'in work'}{why}"


def _artifact(row: Row) -> str:
    return f"{row['outbox']}/{row['path']}  {row['bytes']} bytes{'' if row['written_at'] else ', not written yet'}"


def _incident(row: Row) -> str:
    return f"{local(row['at'])}  {row['device']}: {row['error']}; {row['action']}"
