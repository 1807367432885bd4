"""The reference of the HTTP API, from its OpenAPI schema: `docs/api.md`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from speakeasyd.server.app import build_routes

Schema = Mapping[str, Any]

_HEAD = """\
# HTTP API

Made from the schema of the API, which a running daemon serves at `/api/v1/openapi.json`.
[server.md](server.md) explains access, uploads, live events and the endpoints compatible with
OpenAI's; [events.md](events.md) lists the events. Times are UTC, durations are seconds. Every error
has the form `{"error": {"message": ..., "hint": ...}}`.
"""
_LINK = re.compile(r"\[(\w+)\]\(#\w+\)")
_METHODS = ("get", "post", "patch", "put", "delete")


def render_markdown() -> str:
    """Return the page."""
    schema = build_routes().openapi()
    parts = [_HEAD, "## Requests\n"]
    for path, methods in schema["paths"].items():
        for method in _METHODS:
            if method in methods:
                parts += _render_request(method, path, methods[method])
    parts.append("## Types\n")
    types = schema["components"]["schemas"]
    for name in sorted(_find_types("\n".join(parts), types)):
        parts += _render_type(name, types[name])
    return "\n".join(parts)


def _find_types(requests: str, types: Mapping[str, Schema]) -> set[str]:
    """Return the types that the text links to, and those that these types have in turn."""
    found: set[str] = set()
    texts = [requests]
    while texts:
        names = {name for name in _LINK.findall(texts.pop()) if name in types} - found
        texts += ["\n".join(_render_type(name, types[name])) for name in names]
        found |= names
    return found


def _render_request(method: str, path: str, request: Schema) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    if text := str(request.get("description", "")).strip():
        yield f"{text}\n"
    rows = [
        f"| `{one['name']}` | {one['in']} | {_name_type(one['schema'])} | {_describe_schema(one)} |"
        for one in request.get("parameters", ())
    ]
    if rows:
        yield "\n".join(["| parameter | in | type | |", "|---|---|---|---|", *rows, ""])
    for media, content in request.get("requestBody", {}).get("content", {}).items():
        yield f"Body: {_name_type(content.get('schema', {}))}, `{media}`.\n"
    for status, answer in request["responses"].items():
        if status.startswith("2"):
            contents = answer.get("content", {}).items()
            types = ", ".join(
                f"{_name_type(one.get('schema', {}))}, `{media}`" for media, one in contents
            )
            yield f"Answer {status}: {types or 'no content'}.\n"


def _render_type(name: str, definition: Schema) -> Iterator[str]:
    yield f"### {name}\n"
    if text := str(definition.get("description", "")).strip():
        yield f"{text}\n"
    if values := definition.get("enum"):
        yield f"One of {', '.join(f'`{value}`' for value in values)}.\n"
    fields = definition.get("properties", {})
    rows = [
        f"| `{key}` | {_name_type(one)} | {_describe_schema(one)} |" for key, one in fields.items()
    ]
    if rows:
        yield "\n".join(["| field | type | |", "|---|---|---|", *rows, ""])


def _name_type(schema: Schema) -> str:
    """Return the type in words, with links to the types of the page."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": choices} | {"oneOf": choices}:
            return " or ".join(dict.fromkeys(map(_name_type, choices)))
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case _:
            return _name_plain_type(schema)


def _name_plain_type(schema: Schema) -> str:
    match schema:
        case {"type": "array", "items": items}:
            return f"list of {_name_type(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_name_type(values)}"
        case {"type": "string", "format": "binary"}:
            return "file"
        case _:
            return str(schema.get("type", "any"))


def _describe_schema(schema: Schema) -> str:
    return " ".join(str(schema.get("description", "")).split()).replace("|", "\\|")
