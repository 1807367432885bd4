"""Status, batches, throughput, formats, pause and resume."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.pausing import PERSON_PAUSE
from speakeasyd.ledger.job_lists import list_batches as load_batches
from speakeasyd.ledger.job_lists import list_hours
from speakeasyd.ledger.overview import find_daemon, load_current_overview
from speakeasyd.server.context import Lent, ServerContext
from speakeasyd.server.schemas import Batches, FormatAnswer, Formats, Hours, Overview, Paused

router = APIRouter(tags=["status"])


async def build_overview(parts: ServerContext) -> Mapping[str, Any]:
    """Return the answer of `GET /status`."""
    daemon = await asyncio.to_thread(find_daemon, parts.state)
    seq, snapshot = await parts.ledger.clients.read(load_current_overview, daemon)
    settings = parts.settings
    return asdict(snapshot) | {
        "seq": seq,
        "models": settings.list_models(),
        "presets": sorted(settings.presets),
        "inbox_names": [inbox.name for inbox in settings.inboxes],
        "recorder": find_spec("sounddevice") is not None and find_spec("soundfile") is not None,
    }


@router.get("/status", response_model=Overview)
async def get_status(parts: Lent) -> Mapping[str, Any]:
    """A snapshot: queue, speed, time left, workers, pauses, incidents."""
    return await build_overview(parts)


@router.get("/batches", response_model=Batches)
async def list_batches(
    parts: Lent,
    q: Annotated[str, Query(max_length=500)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Mapping[str, Any]:
    """List batches, newest first. `q`: part of the name."""
    return {"batches": await parts.ledger.clients.read(load_batches, q, limit=limit)}


@router.get("/throughput", response_model=Hours)
async def list_throughput(
    parts: Lent, hours: Annotated[int, Query(ge=1, le=24 * 366)] = 48
) -> Mapping[str, Any]:
    """List the last hours in which jobs ended, oldest first."""
    return {"hours": await parts.ledger.clients.read(list_hours, hours)}


@router.get("/formats")
async def list_formats() -> Formats:
    """List the formats in which a transcript can be written and downloaded."""
    return Formats(
        formats=[
            FormatAnswer(name=spec.name, media_type=spec.media_type, description=spec.description)
            for spec in FORMATS.values()
        ]
    )


class PauseRequest(BaseModel):
    reason: str = Field("paused by a person", min_length=1, max_length=500)


@router.post("/pause")
async def pause_queue(parts: Lent, why: Annotated[PauseRequest | None, Body()] = None) -> Paused:
    """Pause all work after the chunks in flight, until `resume`; also across restarts.

    503: the ledger cannot be written; nothing has changed.
    """
    await parts.pauses.begin_durably(PERSON_PAUSE, (why or PauseRequest()).reason)
    return Paused(pauses={str(cause): why for cause, why in parts.pauses.reasons.items()})


@router.post("/resume")
async def resume_queue(parts: Lent) -> Paused:
    """Resume work. Pauses with other causes remain."""
    await parts.pauses.end_durably(PERSON_PAUSE)
    return Paused(pauses={str(cause): why for cause, why in parts.pauses.reasons.items()})
