"""The messages of the WebSocket in the API's schema: OpenAPI itself has no word for them."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import ConfigDict, Field, TypeAdapter, create_model

from speakeasyd.domain.event_payloads import PAYLOADS, Payload
from speakeasyd.server.schemas import Answer, Overview


class _Message(Answer):
    """A model that is built when the schema is asked for, not when the daemon starts."""

    model_config = ConfigDict(defer_build=True)


class EventAnswer(_Message):
    """One change of state."""

    at: str
    """UTC, ISO 8601."""
    seq: int | None
    """Its number in the ledger; null if it is not stored."""
    job_id: int | None


class _CreatedEvent(EventAnswer):
    """One change of state."""

    # pydantic would search all modules for the source of each created class, for 0.2 s
    model_config = ConfigDict(use_attribute_docstrings=False)


def _build_event(payload: type[Payload]) -> type[EventAnswer]:
    kind = payload.event_kind
    return create_model(
        f"{payload.__name__}Event",
        __base__=_CreatedEvent,
        kind=(Literal[kind], ...),  # type: ignore[arg-type] # not known before run time
        data=(payload, ...),
    )


_EVENTS: Any = reduce(or_, map(_build_event, PAYLOADS.values()))


class Snapshot(_Message):
    """The first message, unless missed events are sent."""

    type: Literal["snapshot"]
    seq: int
    """Number of the newest event."""
    status: Overview


class Events(_Message):
    """Events in their order. Those that an earlier version stored may have fewer fields."""

    type: Literal["events"]
    events: list[Annotated[_EVENTS, Field(discriminator="kind")]]


MESSAGES: TypeAdapter[Snapshot | Events] = TypeAdapter(
    Annotated[Snapshot | Events, Field(discriminator="type")], config=_Message.model_config
)


def describe_events(app: FastAPI, path: str) -> None:
    """Add the WebSocket at `path`, with its messages, to the application's schema."""
    build = app.openapi

    def build_with_events() -> dict[str, Any]:
        schema = build()
        if path not in schema["paths"]:
            message = MESSAGES.json_schema(
                mode="serialization", ref_template="#/components/schemas/{model}"
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components |= message.pop("$defs") | components
            schema["paths"][path] = {"get": _describe_websocket(message)}
        return schema

    app.openapi = build_with_events  # type: ignore[method-assign] # FastAPI documents this


def _describe_websocket(message: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["events"],
        "summary": "Stream Events",
        "description": (
            "A WebSocket. It sends a snapshot, or with `after` the events since that number; "
            "then live events."
        ),
        "operationId": "stream_events",
        "parameters": [
            {"name": "after", "in": "query", "required": False, "schema": {"type": "integer"}}
        ],
        "responses": {
            "101": {
                "description": "The messages of the server.",
                "content": {"application/json": {"schema": message}},
            }
        },
    }
