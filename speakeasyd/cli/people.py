"""`speakeasyd people`"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.ledger_changes import open_for_changes
from speakeasyd.cli.output import console, print_json, print_rows, print_text
from speakeasyd.ledger.ledger import Ledger
from speakeasyd.ledger.people import (
    add_voice_sample,
    check_name,
    forget_person,
    load_people,
    merge_people,
    rename_person,
)
from speakeasyd.services.voice_samples import measure_sample

Found = TypeVar("Found")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a known person.")]

command = typer.Typer(no_args_is_help=True)


@command.command("list")
def list_people(
    config: given.Config = None, state: given.State = None, as_json: given.Json = False
) -> int:
    """List the people whose voices are recognised, and the samples of their voices."""
    people = _run_action(config, state, lambda ledger: ledger.read(load_people))
    if as_json:
        print_json([person.describe() for person in people])
    elif not people:
        console().print("nobody is known")
    else:
        print_rows(
            [
                {
                    "name": person.name,
                    "samples": len(person.samples),
                    "seconds": sum(sample.seconds for sample in person.samples),
                    "from": ", ".join(sample.source for sample in person.samples),
                }
                for person in people
            ]
        )
    return 0


@command.command()
def add(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Who speaks: one person."),
    ],
    config: given.Config = None,
    state: given.State = None,
) -> int:
    """Remember a voice from a recording of one person, of 5 s of speech or more.

    It is stored in the ledger as a list of 192 numbers, the recording is not. A person may have
    several samples.
    """
    name = check_name(name)

    async def add_sample(ledger: Ledger) -> float:
        sample = await measure_sample(file.absolute(), source=file.name)
        await ledger.write(add_voice_sample, name, sample)
        return sample.seconds

    seconds = _run_action(config, state, add_sample)
    print_text(f"{name}: {seconds:.0f} s of speech are remembered")
    return 0


@command.command()
def rename(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    config: given.Config = None,
    state: given.State = None,
) -> int:
    """Rename a person, also in the transcripts that name them; these are written again."""
    changed = _run_action(config, state, lambda ledger: ledger.write(rename_person, name, new))
    print_text(f"renamed{_format_jobs(changed)}")
    return 0


@command.command()
def merge(
    name: Name,
    into: Annotated[str, typer.Argument(metavar="INTO", help="The person who they are.")],
    config: given.Config = None,
    state: given.State = None,
) -> int:
    """Two names are one person: the samples go to the second, also in the transcripts."""
    changed = _run_action(config, state, lambda ledger: ledger.write(merge_people, name, into))
    print_text(f"merged{_format_jobs(changed)}")
    return 0


@command.command()
def forget(name: Name, config: given.Config = None, state: given.State = None) -> int:
    """Delete a person and all samples of the voice. Names in transcripts stay."""
    count = _run_action(config, state, lambda ledger: ledger.write(forget_person, name))
    print_text(f"forgotten, with {count} {'sample' if count == 1 else 'samples'}")
    return 0


def _run_action(
    config: Path | None, state: Path | None, action: Callable[[Ledger], Awaitable[Found]]
) -> Found:
    folder = given.find_state_folder(config, state)

    async def run_action() -> Found:
        async with open_for_changes(folder) as ledger:
            return await action(ledger)

    return asyncio.run(run_action())


def _format_jobs(changed: list[int]) -> str:
    return f"; written again: {given.format_list(changed)}" if changed else ""
