"""`speakeasyd speakers`"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.text import Text

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import open_for_changes
from speakeasyd.cli.output import console, format_position, print_json
from speakeasyd.domain.escaping import escape_line
from speakeasyd.domain.job import JobId
from speakeasyd.domain.options import MOST_SPEAKERS
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.job_details import find_job_row, list_job_speakers
from speakeasyd.ledger.lock import find_holder
from speakeasyd.ledger.readonly import read_ledger
from speakeasyd.ledger.rows import ReadConnection, Row
from speakeasyd.services.speakers import SpeakerChange, change_speakers, remember_speaker


def command(
    job: Annotated[int, typer.Argument(metavar="JOB", help="Job number.")],
    *,
    count: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Find the speakers again: as many as this."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="N=NAME", help="Name a speaker; without a name, unname."),
    ] = None,
    merge: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="These speakers are one.")
    ] = None,
    split: Annotated[
        int | None, typer.Option(metavar="N", help="This speaker is two people.")
    ] = None,
    remember: Annotated[
        int | None,
        typer.Option(metavar="N", help="Recognise this named speaker in other files from now on."),
    ] = None,
    config: given.Config = None,
    state: given.State = None,
    as_json: given.Json = False,
) -> int:
    """Show who speaks in a job, or correct it. Neither needs the recording.

    The transcripts are written again, by the daemon or by `once`.

    For example: speakeasyd speakers 7 --merge 2,3 --name 1=Anna --name "2=Dr. Bo"
    """
    folder = given.find_state_folder(config, state)
    change = SpeakerChange(
        count=_read_count(count),
        merge=_read_numbers(merge),
        split=split,
        names=_read_names(names or []),
    )
    if change != SpeakerChange() or remember is not None:
        asyncio.run(_change_job(folder, JobId(job), change, remember))
        when = "now" if find_holder(folder) else "when the daemon runs"
        if as_json:
            print_json({"changed": job})
        else:
            console().print(f"changed; the transcript is written again {when}")
        return 0
    rows = _read_speakers(folder, job)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            console().print(_format_speaker(row), soft_wrap=True)
    return 0


def _read_count(text: str | None) -> int | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SPEAKERS:
        raise typer.BadParameter(f"--count is `auto` or a number from 1 to {MOST_SPEAKERS}")
    return int(text)


def _read_numbers(text: str | None) -> tuple[int, ...]:
    numbers = (text or "").replace(",", " ").split()
    if not all(number.isdecimal() for number in numbers) or len(numbers) == 1:
        raise typer.BadParameter("--merge takes two or more numbers, such as 2,3")
    return tuple(map(int, numbers))


def _read_names(assignments: Sequence[str]) -> Mapping[int, str]:
    names: dict[int, str] = {}
    for assignment in assignments:
        number, equals, name = assignment.partition("=")
        if not number.strip().isdecimal() or not equals:
            raise typer.BadParameter("--name takes a number and a name, such as 2=Anna")
        names[int(number)] = name
    return names


async def _change_job(
    state: Path, job_id: JobId, change: SpeakerChange, remember: int | None
) -> None:
    async with open_for_changes(state) as ledger:
        if remember is not None:
            name = change.names.get(remember, "")
            await remember_speaker(ledger, job_id, remember, name)
        if change != SpeakerChange():
            await change_speakers(ledger, job_id, change)


def _load_job_and_speakers(connection: ReadConnection, job: int) -> tuple[Row | None, list[Row]]:
    return find_job_row(connection, job), list_job_speakers(connection, job)


def _read_speakers(state: Path, job: int) -> list[Row]:
    found, rows = read_ledger(state, _load_job_and_speakers, job)
    if rows:
        return rows
    if not found:
        raise SpeakeasyError(f"there is no job {job}", hint="`speakeasyd jobs` lists them.")
    if not found["has_transcript"]:
        raise SpeakeasyError(
            f"job {job} has no finished transcript yet",
            hint=f"`speakeasyd show {job}` says what it waits for.",
        )
    raise SpeakeasyError(
        f"the speakers of job {job} were not told apart, or nobody speaks",
        hint='Set speakers = "auto" in its options, then transcribe the file again.',
    )


def _format_speaker(row: Row) -> Text:
    seconds, share, similarity = (
        cast(float, row[name] or 0.0) for name in ("seconds", "share", "similarity")
    )
    line = f"  {format_position(seconds)}  {share:.0%}  {row['words']} words"
    if row["suggestion"]:
        line += f"  perhaps {escape_line(str(row['suggestion']))} ({similarity:.2f})"
    elif row["similarity"] is not None:
        line += f"  recognised ({similarity:.2f})"
    return Text.assemble(
        (f"{row['speaker']:>2}  ", "dim"), (escape_line(str(row["name"])), "bold"), line
    )
