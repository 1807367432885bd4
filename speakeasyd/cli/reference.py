"""The reference of all commands, from the commands themselves: `docs/cli.md`."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from speakeasyd.cli import COMMANDS, build_app

_TYPE = re.compile(r" <[^<>]*>")  # such as `<list[Path]>`
_HEAD = """\
# Commands

Made from the program's help. Every command has `--help`. `speakeasyd --install-completion` installs
completion for your shell.

| command | purpose |
|---|---|
"""


def render_markdown() -> str:
    """Return the page."""
    table = "\n".join(
        f"| [`{name}`](#speakeasyd-{name}) | {summary} |" for name, summary in COMMANDS.items()
    )
    sections = [part for name in COMMANDS for part in _render_command(name)]
    return f"{_HEAD}{table}\n\n" + "\n".join(sections)


def _render_command(name: str) -> Iterator[str]:
    root: Any = get_command(build_app([name]))
    yield from _render_section(
        root.commands[name], root.make_context("speakeasyd", [], resilient_parsing=True), name
    )


def _render_section(command: Any, parent: Any, name: str, level: int = 2) -> Iterator[str]:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    pieces = (
        " ".join(command.collect_usage_pieces(context)).replace("[[", "[").replace("...]...", "...")
    )
    yield f"{'#' * level} speakeasyd {context.command_path.removeprefix('speakeasyd ')}\n"
    yield f"```\n{context.command_path} {pieces}\n```\n"
    if text := inspect.cleandoc(command.help or ""):
        yield f"{text}\n"
    records = [
        (names, help_text)
        for parameter in command.params
        if parameter.name != "help" and (record := parameter.get_help_record(context))
        for names, help_text in [record]
    ]
    if records:
        rows = [
            f"| `{_escape_cell(_TYPE.sub('', names))}` | {_escape_cell(help_text)} |"
            for names, help_text in records
        ]
        yield "\n".join(["| | |", "|---|---|", *rows, ""])
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from _render_section(inner, context, inner_name, level + 1)


def _escape_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
