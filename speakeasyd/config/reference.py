"""The reference of all keys, generated from the settings: `config/speakeasyd.toml`, and tables for the docs."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel, SecretStr

from speakeasyd.config.error_messages import find_table, list_keys
from speakeasyd.config.settings import Settings

_HEAD = """\
# speakeasyd: every key with its default. To change a key, remove the `#` before it, then run `speakeasyd config check`.
#
# Keys can also be set in the environment: SPEAKEASYD_WATCH__SETTLE_S=5 is settle_s = 5 in [watch].
# Paths: `~` and $VARIABLES are expanded; relative paths are relative to the folder of this file. On Windows write paths
# in single quotes: 'D:\\Audio\\inbox'.
"""
_PRESETS = """
# Named sets of options. A file in the folder `french` of an inbox gets this preset. A sidecar, a file beside the audio
# with `.toml` added to its name (`talk.mp3.toml`), sets options for that one file.
# [presets.french]
# language = "fr"
# initial_prompt = "Bonjour, voici l'enregistrement."
"""
_WIDTH = 118


@dataclass(frozen=True, slots=True)
class SettingKey:
    table: str  # "" at the top
    name: str
    why: str
    default: str  # as TOML; an example where there is no default
    is_example: bool = False


def list_reference() -> Iterator[SettingKey]:
    """All keys, in the order of the file."""
    for table, model, name in list_keys():
        field = model.model_fields[name]
        example = field.examples[0] if field.examples else None
        default = example or _to_plain(field.get_default(call_default_factory=True))
        yield SettingKey(
            table,
            name,
            field.description or "",
            format_toml(default),
            is_example=field.default is None,
        )


def render_toml_file() -> str:
    """Return the text of `config/speakeasyd.toml`."""
    parts = [_HEAD]
    for table, members in groupby(list_reference(), lambda key: key.table):
        if table:
            parts.append(f"\n{_format_comment(_describe_table(table))}\n{_format_header(table)}\n")
        parts += [
            f"\n{_format_comment(key.why + (' Not set by default.' if key.is_example else ''))}\n{_format_key(key)}\n"
            for key in members
        ]
        if table == "options":
            parts.append(_PRESETS)
    return "".join(parts)


def render_markdown() -> str:
    """Return the Markdown tables of `docs/configuration.md`."""
    parts = []
    for table, members in groupby(list_reference(), lambda key: key.table):
        parts.append(
            f"### `{_format_header(table)}`\n\n{_describe_table(table)}\n"
            if table
            else "### At the top\n"
        )
        parts.append("| key | default | meaning |\n|---|---|---|")
        parts += [
            f"| `{key.name}` | {_format_table_row(key)} | {key.why.replace('|', chr(92) + '|')} |"
            for key in members
        ]
        parts.append("")
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Assignment:
    table: str  # its header; "" at the top
    dotted: str
    key: str
    value: str  # as TOML


def list_assignments(settings: Settings) -> Iterator[Assignment]:
    """Yield the settings as lines of the file, without keys that are not set."""
    for table, value in settings:
        if isinstance(value, BaseModel):
            yield from _list_table(f"[{table}]", table, dict(value))
        elif table == "inboxes":
            for number, inbox in enumerate(settings.inboxes):
                yield from _list_table("[[inboxes]]", f"inboxes.{number}", dict(inbox))
        elif table == "presets":
            for name, changes in settings.presets.items():
                yield from _list_table(f"[presets.{name}]", f"presets.{name}", changes)
        else:
            yield Assignment("", table, table, format_toml(value))


def _list_table(header: str, prefix: str, values: Mapping[str, object]) -> Iterator[Assignment]:
    for key, value in values.items():
        if value is not None:
            yield Assignment(header, f"{prefix}.{key}", key, format_toml(_to_plain(value)))


def format_toml(value: object) -> str:
    """Return a value in TOML's notation; empty for None, which TOML does not have."""
    match value:
        case None:
            return ""
        case Path() | SecretStr():
            return format_toml(str(value))  # a secret becomes asterisks
        case BaseModel():
            shown = value.model_dump(mode="json")  # with asterisks for secrets
            return format_toml({key: item for key, item in shown.items() if item is not None})
        case list() | tuple():
            return f"[{', '.join(map(format_toml, value))}]"
        case dict():
            return f"{{ {', '.join(f'{json.dumps(key)} = {format_toml(item)}' for key, item in value.items())} }}"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _to_plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _describe_table(table: str) -> str:
    """Return the description of a table: that of its key, else the docstring of its class."""
    return Settings.model_fields[table].description or find_table((table, 0, "")).__doc__ or ""


def _format_header(table: str) -> str:
    return f"[[{table}]]" if table == "inboxes" else f"[{table}]"


def _format_key(key: SettingKey) -> str:
    """Wrap long lists after commas only: an item may have spaces."""
    text = f"{key.name} = {key.default}".replace(" ", "\0").replace(",\0", ", ")
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="#     ", break_long_words=False
    )
    return "\n".join(lines).replace("\0", " ")


def _format_comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# "))


def _format_table_row(key: SettingKey) -> str:
    if key.is_example:
        return f"not set; such as `{key.default}`"
    return f"`{key.default}`" if len(key.default) < 60 else "see `config/speakeasyd.toml`"
