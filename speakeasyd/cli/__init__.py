"""The command line. A command is a function that returns an exit status; every error ends here, and only here."""

import errno
import io
import logging
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from speakeasyd import __version__
from speakeasyd.domain.escaping import escape_text
from speakeasyd.errors import INTERRUPTED, SpeakeasyError, StartError
from speakeasyd.garbage import pause_collection
from speakeasyd.system.journal import add_priority, is_journal
from speakeasyd.workers.spawn import SpawnedWorker

DEFECT = 3  # exit status

_REFUSALS = {
    errno.EACCES: "This user may not do that there.",
    errno.EPERM: "This user may not do that there.",
    errno.EROFS: "That filesystem is read-only.",
    errno.ENOSPC: "Make room on that disk.",
    errno.EDQUOT: "This user's share of that disk is used up.",
    errno.EIO: "That disk fails: the system's log says more.",
    errno.ENOTDIR: "A part of that path is a file, not a folder.",
    errno.EISDIR: "That is a folder, not a file.",
    errno.EEXIST: "Something of that name is in the way.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Symbolic links lead round in a circle there.",
}
"""What the system refuses for reasons outside this program, with a hint. Other errors of the system are defects."""

COMMANDS: Mapping[str, str] = {
    "run": "Watch the inboxes and transcribe new files, until stopped.",
    "once": "Transcribe the files in the inboxes, then exit.",
    "demo": "Demonstrate speakeasyd on sample clips or your files, in a temporary folder.",
    "status": "Show what the daemon does, its speed and the time left.",
    "jobs": "List jobs, newest first.",
    "show": "Show one job; its text with --text.",
    "why": "Show what is known about a file, and what happens next.",
    "retry": "Retry ended jobs.",
    "cancel": "Cancel jobs that have not ended.",
    "pause": "Pause all work.",
    "resume": "Resume work after a pause.",
    "search": "Search in transcripts.",
    "speakers": "Show who speaks in a job, or correct it.",
    "people": "Manage the people whose voices are recognised.",
    "record": "Record from a microphone into the first inbox.",
    "devices": "List recording devices.",
    "sql": "Query the ledger in SQL, read-only.",
    "ledger": "Back up, restore, check or compact the ledger.",
    "doctor": "Check this machine for problems.",
    "cluster": "Show the Ray cluster of the workers.",
    "tune": "Find the fastest settings for this machine.",
    "config": "Show, check or write the configuration.",
    "service": "Install, start, stop or remove the service of this machine or user.",
}
"""In the order of the help. Each is a module here with a function, or an application of its own, named `command`."""


def main(argv: Sequence[str] | None = None, *, prestarted: SpawnedWorker | None = None) -> int:
    """Run one command. Returns the exit status: its own, that of an expected error, 3 for a defect, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _print_whatever_names_there_are()
    try:
        status = int(
            get_command(build_app(arguments)).main(
                arguments, "speakeasyd", standalone_mode=False, obj=prestarted
            )
            or 0
        )
    except SpeakeasyError as error:
        _print_error(f"speakeasyd: {error}", error.hint)
        return error.exit_status
    except typer.TyperException as error:  # a wrong option or argument, which typer words well
        return _handle_usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one boundary
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            where = f"{error.filename}: " if error.filename else ""  # none if it is the output
            _print_error(f"speakeasyd: {where}{error.strerror}", _REFUSALS[error.errno])
            return StartError.exit_status
        _print_error(
            f"speakeasyd: a defect: {type(error).__name__}: {error}",
            f"Please report it, with {_write_diagnosis(arguments)}",
        )
        return DEFECT
    if status == INTERRUPTED:  # typer turns most of Ctrl-C into this exit status
        _print_error("interrupted")
    return status


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """All commands by name, but only the one that is asked for is imported: starting up has to be quick."""
    app = typer.Typer(
        help="Drop audio into a folder, get transcripts out of another.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    words = arguments or _words_to_complete()
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command: Any = _import_command(name) if name == wanted else _not_imported
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=summary)
        else:
            app.command(name, short_help=summary)(command)
    return app


def _import_command(name: str) -> object:
    with pause_collection():
        return import_module(f"{__name__}.{name}").command


def _words_to_complete() -> Sequence[str]:
    """What was typed so far, when a shell asks for completions."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


def _not_imported() -> int:
    raise AssertionError("only its name is needed")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"speakeasyd {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None: ...


def _print_whatever_names_there_are() -> None:
    """A console that cannot show a character shows `?` instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _print_error(what: str, hint: str = "") -> None:
    text = escape_text(f"{what}\n{hint}".rstrip())
    typer.echo(add_priority(text, logging.ERROR) if is_journal(sys.stderr) else text, err=True)


def _handle_usage_error(error: typer.TyperException) -> int:
    """Only what comes from the parser knows how to show itself."""
    show = getattr(error, "show", None)
    if show:
        error.message = escape_text(error.message)
        show()
    else:
        _print_error(error.format_message())
    return error.exit_code


def _write_diagnosis(arguments: Sequence[str]) -> str:
    """A file with what a developer needs to know. Returns where it is."""
    now = datetime.now().astimezone()
    file = Path(tempfile.gettempdir()) / f"speakeasyd-defect-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    about = f"speakeasyd {__version__}, Python {sys.version}\n{platform.platform()}\n{now.isoformat()}\n{arguments}\n\n"
    try:
        file.write_text(about + traceback.format_exc(), encoding="utf-8", errors="replace")
    except OSError:
        return f"this:\n{traceback.format_exc()}"
    return f"the file {file}"
