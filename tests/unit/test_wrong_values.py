"""What is wrong with a value is said in plain words, for every kind of constraint in the settings."""

import re
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from speakeasyd.config import Settings
from speakeasyd.config.loading import combine_sources
from speakeasyd.domain.options import Options
from speakeasyd.domain.presets import Presets
from speakeasyd.errors import ConfigError, FileFault

OF_PYDANTIC = re.compile(
    r"\b(Input|Value|valid|validation|tuple|string|integer|boolean|parse|items?|dictionary|instance)\b"
)


def refuse(table: str, key: str, value: object) -> str:
    """The message about this value."""
    given = {table: {key: value}} if table else {key: value}
    with pytest.raises(ConfigError) as refused:
        combine_sources(None, flags=given, environ={})
    return str(refused.value).removeprefix("the command line: ")


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("options", "beam_size", 99, "options.beam_size is 99; it must be at most 20"),
        ("options", "beam_size", 0, "options.beam_size is 0; it must be at least 1"),
        ("notify", "retry_s", 0, "notify.retry_s is 0; it must be more than 0"),
        ("options", "beam_size", "x", "options.beam_size is 'x'; it must be a whole number"),
        ("options", "beam_size", 2.5, "options.beam_size is 2.5; it must be a whole number"),
        ("options", "beam_size", None, "options.beam_size is None; it must be a whole number"),
        ("watch", "settle_s", "soon", "watch.settle_s is 'soon'; it must be a number"),
        ("watch", "rescan_s", inf, "watch.rescan_s is inf; it must be a finite number"),
        ("options", "vad", "maybe", "options.vad is 'maybe'; it must be true or false"),
        ("options", "model", "", "options.model is ''; it must not be empty"),
        ("options", "model", 3, "options.model is 3; it must be text, in quotes"),
        ("options", "formats", [], "options.formats is []; it must not be empty"),
        ("options", "formats", "txt", "options.formats is 'txt'; it must be a list, in brackets"),
        ("log", "level", "loud", "it must be 'debug', 'info', 'warning' or 'error'"),
        ("server", "token", "short", "server.token must have at least 16 characters"),
        ("server", "port", 70_000, "server.port is 70000; it must be at most 65535"),
        ("", "options", 3, "options is 3; it must be a table"),
        ("", "presets", 3, "presets is 3; it must be a table"),
        ("", "state", 3, "state is 3; it must be a path, in quotes"),
        ("", "inboxes", {"path": "x"}, "inboxes must be in double brackets: [[inboxes]]"),
        ("notify", "webhooks", [{}], "notify.webhooks.0.url is missing"),
        ("options", "language", "English", "otherwise a code such as `en`"),
        ("options", "languages", ["English"], "the allowed codes, such as"),
        ("options", "speakers", 99, "it must be 'off', 'auto' or a number from 1 to 30, not 99"),
    ],
)
def test_each_kind_of_constraint_is_worded(
    table: str, key: str, value: object, message: str
) -> None:
    assert message in refuse(table, key, value)


def test_a_long_text_is_refused_and_cut() -> None:
    message = refuse("options", "name", "x" * 300)
    assert message.endswith("it must have at most 200 characters")
    assert len(message) < 200


def test_a_wrong_entry_is_not_reported_as_a_missing_one() -> None:
    message = refuse("options", "formats", ["pdf"])
    assert "unknown format 'pdf'" in message
    assert "empty" not in message


def test_options_of_a_sidecar_are_worded_in_the_same_way() -> None:
    presets = Presets(defaults=Options(), presets={})
    with pytest.raises(FileFault, match=r"beam_size is 99; it must be at most 20"):
        presets.choose_options("", {"beam_size": 99})
    with pytest.raises(FileFault, match=r"speakers: it must be 'off', 'auto'"):
        presets.choose_options("", {"speakers": "maybe"})
    with pytest.raises(FileFault, match=r": speakers_min is larger than speakers_max"):
        presets.choose_options("", {"speakers_min": 3, "speakers_max": 2})


def wrong_values(schema: dict[str, Any]) -> Iterator[object]:
    """Values that break each constraint of a key, in terms of its JSON schema."""
    for choice in schema.get("anyOf", [schema]):
        match choice.get("type"):
            case "integer" | "number":
                yield from ("x", [], None)
                yield from (
                    choice[name] - 1 for name in ("minimum", "exclusiveMinimum") if name in choice
                )
                yield from (choice[name] + 1 for name in ("maximum",) if name in choice)
            case "boolean":
                yield from ("x", 7, [])
            case "string":
                yield from (3, ["x"], {})
                yield from ["x" * (choice["minLength"] - 1)] if choice.get("minLength") else []
                yield from ["x" * (choice["maxLength"] + 1)] if choice.get("maxLength") else []
                yield from ["\n?"] if "pattern" in choice or "enum" in choice else []
            case "array":
                yield from ("x", 3, [{}], [3])
            case "object":
                yield from ("x", 3)


def keys() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Table, key and JSON schema of every key of the settings."""
    schema = Settings.model_json_schema()
    for name, field in schema["properties"].items():
        reference = field.get("$ref", "").rpartition("/")[2]
        if reference:
            for key, inner in schema["$defs"][reference]["properties"].items():
                yield name, key, inner
        yield "", name, field


def test_no_message_is_in_the_words_of_the_library() -> None:
    message = []
    for table, key, schema in keys():
        for value in wrong_values(schema):
            given = {table: {key: value}} if table else {key: value}
            try:
                combine_sources(None, flags=given, environ={})
            except ConfigError as error:
                message += str(error).splitlines()
    assert len(message) > 200
    assert [line for line in message if OF_PYDANTIC.search(line)] == []
