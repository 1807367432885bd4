"""`speakeasyd ledger`"""

import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from speakeasyd.cli import parameters as given
from speakeasyd.cli.output import print_text
from speakeasyd.errors import LedgerError
from speakeasyd.ledger.readonly import LEDGER

command = typer.Typer(no_args_is_help=True)


@command.command()
def backup(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Where to write the copy.", resolve_path=True, readable=False
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file that is there.")
    ] = False,
    config: given.Config = None,
    state: given.State = None,
) -> int:
    """Write a whole copy of the ledger to a file, also while the daemon works."""
    from speakeasyd.cli.progress import show_progress  # noqa: PLC0415
    from speakeasyd.ledger.access import open_for_reading, require_readable  # noqa: PLC0415
    from speakeasyd.ledger.backup import copy_ledger  # noqa: PLC0415
    from speakeasyd.ledger.failures import build_sqlite_error  # noqa: PLC0415

    ledger = _find_ledger(config, state)
    require_readable(ledger)
    if file.exists() and file.samefile(ledger):
        raise LedgerError(f"{file} is the ledger itself", hint="Choose another file.")
    try:
        with open_for_reading(ledger) as source, show_progress("copying the ledger") as advance:
            copy_ledger(source, file, overwrite=force, on_progress=advance)
    except sqlite3.Error as error:
        raise build_sqlite_error(error, ledger, "copied") from error
    print_text(f"written: {file}")
    return 0


@command.command()
def restore(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A copy of a ledger.", resolve_path=True, readable=False
        ),
    ],
    config: given.Config = None,
    state: given.State = None,
) -> int:
    """Put a copy in place of the ledger, while no daemon runs. The replaced one is kept beside it."""
    from speakeasyd.cli.progress import show_progress  # noqa: PLC0415
    from speakeasyd.ledger.restoring import restore_ledger as put_back  # noqa: PLC0415

    ledger = _find_ledger(config, state)
    with show_progress("checking and copying"):
        kept = put_back(file, ledger)
    print_text(f"restored: {ledger}" + (f"\nThe replaced ledger is kept: {kept}" if kept else ""))
    return 0


@command.command()
def check(config: given.Config = None, state: given.State = None) -> int:
    """Look whether the ledger is sound. Exit status: 0 it is, 1 it is damaged, 2 it cannot be read as a ledger."""
    from speakeasyd.cli.progress import show_progress  # noqa: PLC0415
    from speakeasyd.ledger.restoring import RESTORE, examine_ledger  # noqa: PLC0415

    ledger = _find_ledger(config, state)
    with show_progress("checking the ledger"):
        revision, problems = examine_ledger(ledger)
    if problems:
        print_text("\n".join([f"{ledger} is damaged:", *problems, RESTORE]))
        return 1
    print_text(f"{ledger} is sound (schema {revision})")
    return 0


@command.command()
def vacuum(config: given.Config = None, state: given.State = None) -> int:
    """Give unused space back to the disk, while no daemon runs. Needs as much free space as the ledger has."""
    from speakeasyd.ledger.compaction import compact_ledger  # noqa: PLC0415

    ledger = _find_ledger(config, state)
    before, after = compact_ledger(ledger)
    print_text(f"{ledger}: {before / 2**20:.1f} MB before, {after / 2**20:.1f} MB now")
    return 0


def _find_ledger(config: Path | None, state: Path | None) -> Path:
    return given.find_state_folder(config, state) / LEDGER
