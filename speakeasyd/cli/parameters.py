"""Options that several commands share. Those that change settings are in `cli/flags.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from speakeasyd import setting_sources

_FOLDER = {
    "file_okay": False,
    "resolve_path": True,
    "readable": False,
}  # whether it can be read is said elsewhere

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Use this configuration file.", resolve_path=True, readable=False
    ),
]
Inbox = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Watch this folder only.", **_FOLDER)
]
Outbox = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write transcripts to this folder.", **_FOLDER)
]
State = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folder of the ledger.", **_FOLDER)
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="`auto`, `bundled`, a size, a Hugging Face id, or a folder."
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="The device that transcribes.")
]
Settle = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long a file must be unchanged.")
]
Language = Annotated[
    str | None, typer.Option(metavar="auto|CODE", help="The spoken language, such as `en`.")
]
Languages = Annotated[
    str | None,
    typer.Option(metavar="CODE,CODE,...", help="The languages to choose from, such as `en,de`."),
]
Audio = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N|LANGUAGE|all",
        help="Which audio tracks, such as `2`, `deu` or `eng,jpn`.",
    ),
]
Speakers = Annotated[
    str | None,
    typer.Option(metavar="off|auto|N", help="Tell speakers apart; a number says how many."),
]
Task = Annotated[
    str | None, typer.Option(metavar="transcribe|translate", help="`translate` gives English text.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
ByLine = Annotated[bool, typer.Option("--line", help="Print each field on its own line, in full.")]
JobIds = Annotated[
    list[int],
    typer.Argument(metavar="JOB...", help="Job numbers, as `speakeasyd jobs` shows them."),
]


def find_state_folder(config: Path | None, state: Path | None) -> Path:
    """Return the folder of the ledger. Raises ConfigError if any setting is wrong."""
    if folder := setting_sources.find_state_folder(config, flag=state):
        return folder
    from speakeasyd.cli.flags import Flags, load_settings  # noqa: PLC0415 - slow, often not needed

    return load_settings(config, Flags(state=state)).state


def format_list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
