"""Messages for wrong settings: where the value comes from, which key, what is allowed."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from speakeasyd.config.settings import (
    HIDDEN,
    InboxSettings,
    Settings,
    WebhookSettings,
    mask_url,
)
from speakeasyd.domain.options import Options
from speakeasyd.domain.wrong_values import drop_consequences, explain_value
from speakeasyd.errors import ConfigError

Place = tuple[int | str, ...]


def build_error(error: ValidationError, origins: Mapping[str, str], *, default: str) -> ConfigError:
    """Return one error for all wrong settings.

    `origins`: where each dotted key was set; `default`: the origin of all other keys.
    """
    lines = [
        f"{find_nearest_origin(origins, problem['loc']) or default}: {_explain_problem(problem)}"
        for problem in drop_consequences(error.errors(include_url=False))
    ]
    return ConfigError("\n".join(lines), hint="docs/configuration.md explains every key.")


def find_table(place: Place) -> type[BaseModel]:
    """Return the model of the table that has the key at `place`."""
    match place:
        case ("inboxes", _, *_):
            return InboxSettings
        case ("presets", _, _):
            return Options
        case ("notify", "webhooks", int(), *_):
            return WebhookSettings
        case (str(name), _, *_):
            table = Settings.model_fields[name].annotation
            return table if isinstance(table, type) and issubclass(table, BaseModel) else Settings
        case _:
            return Settings


def list_keys() -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield every key: the name of its table ("" at the top), the table's model, the key's name."""
    for name, field in Settings.model_fields.items():
        table = InboxSettings if name == "inboxes" else field.annotation
        if isinstance(table, type) and issubclass(table, BaseModel):
            yield from ((name, table, key) for key in table.model_fields)
        elif name != "presets":
            yield "", Settings, name


def _explain_problem(problem: Any) -> str:
    place: Place = problem["loc"]
    dotted = ".".join(map(str, place))
    match problem["type"]:
        case "extra_forbidden":
            return f"there is no key {dotted}; {_suggest_key(place)}"
        case "string_pattern_mismatch":
            return f"{dotted} is {_show_input(problem)}; allowed: {_describe_key(place)}"
        case "tuple_type" if place == ("inboxes",):
            return "inboxes must be in double brackets: [[inboxes]]"
        case _:
            shown = _show_input(problem)
            return explain_value(dotted, problem, shown="" if shown == HIDDEN else shown)


def _show_input(problem: Any) -> str:
    """Return the wrong value, shortened, without what may be a secret: the message may be logged."""
    value = problem["input"]
    match problem["loc"]:
        case ("notify", "webhooks", int(), "url") if isinstance(value, str):
            return f"{mask_url(value)!r:.80}"
        case ("server", "token") | ("notify", "apprise" | "webhooks", *_) | ("notify" | "server",):
            return HIDDEN
        case _:
            return f"{value!r:.80}"


def _suggest_key(place: Place) -> str:
    """Suggest a key: one of another table with this name, or a similar one of the same table."""
    table, key = find_table(place), str(place[-1])
    elsewhere = [f"{name}.{known}" for name, _, known in list_keys() if known == key and name]
    if meant := elsewhere or get_close_matches(key, table.model_fields, n=1):
        return f"did you mean {meant[0]}?"
    return f"allowed: {', '.join(table.model_fields)}"


def _describe_key(place: Place) -> str:
    if place[-1] == "[key]":
        return "characters that are allowed in folder names"
    fields = find_table(place).model_fields
    key = next(part for part in reversed(place) if part in fields)
    return fields[str(key)].description or ""


def find_nearest_origin(origins: Mapping[str, str], place: Place) -> str | None:
    """Return the origin of the key, else of the nearest table above it, else of a key inside it."""
    above = [".".join(map(str, place[:length])) for length in range(len(place), 0, -1)]
    inside = (dotted for dotted in origins if above and dotted.startswith(above[0] + "."))
    return next((origins[dotted] for dotted in (*above, *inside) if dotted in origins), None)
