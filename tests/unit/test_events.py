"""Every kind of event has a payload, a row in the documentation and a schema in the API."""

from dataclasses import asdict
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from speakeasyd.domain.event_kinds import EventKind
from speakeasyd.domain.event_payloads import PAYLOADS, ChunkDone, JobNoted
from speakeasyd.domain.event_reference import render_markdown_table
from speakeasyd.domain.job import JobId
from speakeasyd.events import Event
from speakeasyd.server.event_schema import MESSAGES, describe_events
from tests.conftest import REPOSITORY

DONE = ChunkDone(chunk=0, end=10.0, gap=False, progress=0.5)


def test_every_kind_has_a_payload() -> None:
    assert PAYLOADS.keys() == set(EventKind)


def test_the_documentation_has_the_table_of_the_kinds() -> None:
    page = (REPOSITORY / "docs" / "events.md").read_text(encoding="utf-8")
    assert render_markdown_table() in page


def test_every_kind_and_every_member_is_explained() -> None:
    rows = render_markdown_table().splitlines()[2:]
    assert len(rows) == len(EventKind)
    assert all(row.split(" | ")[1].endswith(".") for row in rows)


def _build_message(**event: Any) -> dict[str, Any]:
    return {"type": "events", "events": [event]}


@pytest.mark.parametrize(
    "payload", [DONE, JobNoted(container_seconds=0.5)], ids=lambda it: it.event_kind
)
def test_a_sent_event_is_valid(payload: Any) -> None:
    event = Event.of(payload, at="2026-01-01T00:00:00.000Z", job_id=JobId(1))
    MESSAGES.validate_python(_build_message(**asdict(event)))


def test_data_of_another_kind_is_invalid() -> None:
    event = asdict(Event.of(DONE, at="2026-01-01T00:00:00.000Z"))
    with pytest.raises(ValidationError):
        MESSAGES.validate_python(_build_message(**event | {"kind": "job.retry_failed"}))


def test_the_schema_of_the_api_has_the_messages_of_the_websocket() -> None:
    app = FastAPI()
    describe_events(app, "/events")
    schema = app.openapi()
    known = schema["components"]["schemas"]
    assert {name for payload in PAYLOADS.values() if (name := payload.__name__)} <= known.keys()
    message = schema["paths"]["/events"]["get"]["responses"]["101"]["content"]["application/json"]
    assert message["schema"]["discriminator"]["propertyName"] == "type"
    references = _find_references(schema)
    assert references
    assert references <= {f"#/components/schemas/{name}" for name in known}


def _find_references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_find_references, value.values()))
    if isinstance(value, list):
        return set[str]().union(*map(_find_references, value))
    return set()
