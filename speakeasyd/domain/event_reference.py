"""The reference of events for people: the table of `docs/events.md`."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import PAYLOADS


def render_markdown_table() -> str:
    """Return the table of `docs/events.md`: kind, meaning, data."""
    meanings = _read_member_docs()
    rows = [
        f"| `{kind}` | {meanings[kind.name]} | {_describe_data(kind)} |"
        for kind in sorted(PAYLOADS)
    ]
    return "\n".join(["| kind | meaning | data |", "|---|---|---|", *rows])


def _read_member_docs() -> Mapping[str, str]:
    """Return the docstring of each member by name. Python drops those of attributes."""
    [definition] = ast.parse(inspect.getsource(EventKind)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is the source of a class
    docs: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str() as text)) if name:
                docs[name] = " ".join(text.split())
    return docs


def _describe_data(kind: EventKind) -> str:
    schema = TypeAdapter(PAYLOADS[kind]).json_schema()
    definitions = schema.get("$defs", {})
    fields = schema.get("properties", {}).items()
    return "<br>".join(_describe_field(name, field, definitions) for name, field in fields)


def _describe_field(name: str, field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    about = f": {field['description']}" if "description" in field else ""
    return f"`{name}` ({' or '.join(_list_types(field, definitions))}){about}"


def _list_types(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    match field:
        case {"anyOf": choices}:
            for choice in choices:
                yield from _list_types(choice, definitions)
        case {"$ref": reference}:
            yield from _list_types(definitions[reference.rpartition("/")[2]], definitions)
        case {"enum": values}:
            yield ", ".join(f"`{value}`" for value in values if value)
        case {"const": value}:
            yield f"`{value}`"
        case {"type": "array", "items": items}:
            yield f"list of {' or '.join(_list_types(items, definitions))}"
        case {"type": name}:
            yield name
