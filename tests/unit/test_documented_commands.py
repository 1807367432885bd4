"""Every command in the documents is one that the command line takes, and every piece of configuration is valid."""

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from speakeasyd.cli import COMMANDS, build_app
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.options import Options
from speakeasyd.ledger.readonly import LEDGER, find_matching_jobs, query_readonly
from tests import ledgers
from tests.unit.test_docs import PAGES

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(speakeasyd [^`\n]+)`")
PROMPT = re.compile(r"^\s*(\$ |PS> |> )?(sudo (-u \w+ )?)?(\w+=\S+ )*(\S*[/\\])?(?=speakeasyd )")
CUT = re.compile(r"\s{2,}|\s+(#|\||>|&&|;)(\s|$)|\s*…")
PLACEHOLDERS: Mapping[str, str] = {"JOB": "7", "N": "2", "PID": "1"}
GENERATED = ("cli.md", "CHANGELOG.md")


def commands(page: Path) -> Iterator[str]:
    """The commands of speakeasyd that a page shows, in blocks and in sentences."""
    text = page.read_text(encoding="utf-8")
    for _, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := PROMPT.match(line):
                yield CUT.split(line[found.end() :])[0]
    yield from (CUT.split(command)[0] for command in INLINE.findall(FENCE.sub("", text)))


def parse(command: str) -> None:
    """Parse the command as the command line does, without running it. Raises typer.TyperException.

    A mere name needs no arguments. Files that it names are created in the current folder.
    """
    _, *words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    for word in words:
        if word.endswith((".wav", ".mp3", ".db")) and not Path(word).is_absolute():
            Path(word).expanduser().parent.mkdir(parents=True, exist_ok=True)
            Path(word).expanduser().touch()
    current: Any = get_command(build_app(words))
    context = current.make_context("speakeasyd", [], resilient_parsing=True)
    while words and hasattr(current, "commands"):
        if words[0] in {"--help", "-h", "--version", "--install-completion"}:
            return
        name = words.pop(0)
        if name not in current.commands:
            raise typer.BadParameter(f"no such command: {name}")
        current = current.commands[name]
        mere_name = hasattr(current, "commands") or not words
        context = current.make_context(
            name, [] if mere_name else words, parent=context, resilient_parsing=mere_name
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = {}
    for command in dict.fromkeys(commands(page)) if page.name not in GENERATED else ():
        try:
            parse(command)
        except typer.TyperException as error:
            refused[command] = error.format_message()
    assert refused == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_query_of_a_command_is_answered(page: Path, tmp_path: Path) -> None:
    ledgers.create_ledger(tmp_path / LEDGER)
    for command in dict.fromkeys(commands(page)):
        match shlex.split(command):
            case [_, "sql", query, *_] if " " in query:
                query_readonly(tmp_path / LEDGER, query)
            case [_, "retry" | "cancel", *_, "--where", condition]:
                find_matching_jobs(tmp_path / LEDGER, condition)


def test_commands_are_found_and_wrong_ones_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "See `speakeasyd jobs --status failed`.\n```console\n$ sudo -u me speakeasyd pause   # stops\n"
        "speakeasyd status --watch          progress\n```\n",
        encoding="utf-8",
    )
    assert set(commands(page)) == {
        "speakeasyd jobs --status failed",
        "speakeasyd pause",
        "speakeasyd status --watch",
    }
    for wrong in ("speakeasyd stats", "speakeasyd jobs --nothing", "speakeasyd show seven"):
        with pytest.raises(typer.TyperException):
            parse(wrong)
    assert sum(len(set(commands(page))) for page in PAGES) > 100
    used = {command.split()[1] for page in PAGES for command in commands(page)}
    assert set(COMMANDS) <= used


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_piece_of_configuration_is_valid(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "toml":
            continue
        values = tomllib.loads(block)
        if values.keys() <= {*Options.model_fields, "preset"} and values:
            values.pop("preset", None)
            Options.model_validate(values)  # a sidecar
        else:
            presets = values.setdefault("presets", {})  # they may be in another piece
            presets |= {one["preset"]: {} for one in values.get("inboxes", ()) if "preset" in one}
            combine_sources(None, flags=values, environ={})
