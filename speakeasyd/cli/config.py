"""`speakeasyd config`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import load_with_flags
from speakeasyd.cli.ledger_changes import send_request
from speakeasyd.cli.output import console, print_json, print_text
from speakeasyd.config import LoadedSettings
from speakeasyd.config.reference import list_assignments, render_toml_file
from speakeasyd.domain.event_payloads import ReloadRequested
from speakeasyd.durable import write_private
from speakeasyd.errors import ConfigError, SpeakeasyError
from speakeasyd.setting_sources import FILE_VARIABLE, find_file, is_there, list_candidates

NO_FILE = "no file, the defaults"

command = typer.Typer(no_args_is_help=True)


@command.command()
def show(config: given.Config = None, as_json: given.Json = False) -> int:
    """Every key with its value, and who set it where it is not the default."""
    loaded = load_with_flags(config)
    if as_json:
        print_json(loaded.settings.model_dump(mode="json"))
        return 0
    out = console()
    table = None
    for assignment in list_assignments(loaded.settings):
        if assignment.table != table:
            table = assignment.table
            out.print(f"\n{table}", style="bold", markup=False)
        origin = loaded.find_origin(assignment.dotted)
        out.print(
            f"{assignment.key} = {assignment.value}{f'  # {origin}' if origin else ''}",
            markup=False,
            soft_wrap=True,
        )
    return 0


@command.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", readable=False, help="In place of the one in use."),
    ] = None,
    config: given.Config = None,
) -> int:
    """Say what is wrong with the configuration. Exit status: 0 all is well, 78 something is wrong."""
    loaded = load_with_flags(file or config)
    print_text(f"{_name_file(loaded)}: all is well")
    return 0


@command.command()
def init(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", readable=False, help="Where; else in the user's configuration."
        ),
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print it instead.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file that is there.")
    ] = False,
) -> int:
    """Write a configuration file with every key explained and nothing changed."""
    if stdout:
        sys.stdout.write(render_toml_file())
        return 0
    target = file or list_candidates()[0]
    if target.exists() and not force:
        raise SpeakeasyError(f"there is a file {target} already", hint="--force overwrites it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_private(target, render_toml_file())  # tokens and passwords go there
    print_text(f"written: {target}")
    return 0


@command.command()
def path(config: given.Config = None) -> int:
    """Where the configuration is looked for, and which file is in use."""
    out = console()
    out.print(f"looked for: --config, then {FILE_VARIABLE}, then", markup=False)
    for candidate in list_candidates():
        out.print(f"  {candidate}{_describe_presence(candidate)}", markup=False, soft_wrap=True)
    out.print(f"in use: {find_file(config) or NO_FILE}", markup=False, soft_wrap=True)
    return 0


def _describe_presence(candidate: Path) -> str:
    try:
        return "" if is_there(candidate) else "  (not there)"
    except ConfigError:
        return "  (this user may not look there)"


@command.command()
def reload(config: given.Config = None, state: given.State = None) -> int:
    """Ask the running daemon to read its configuration again."""
    send_request(given.find_state_folder(config, state), ReloadRequested())
    print_text("asked; the daemon's log says what changes now and what needs a restart")
    return 0


def _name_file(loaded: LoadedSettings) -> str:
    return str(loaded.file or NO_FILE)
