"""Search in transcripts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from speakeasyd.ledger.search import TIME, SearchFilters, search_text
from speakeasyd.server.context import Lent
from speakeasyd.server.schemas import SearchHitsAnswer

_Name = Annotated[str | None, Query(max_length=1000)]
_Time = Annotated[
    str | None,
    Query(
        pattern=TIME,
        description="Time the file was received, UTC, or a prefix: `2026-05`.",
    ),
]

MOST = 10_000  # hits that can be reached; more of them need a narrower search

router = APIRouter(tags=["search"])


@router.get("/search", response_model=SearchHitsAnswer)
async def search_transcripts(
    parts: Lent,
    q: Annotated[str, Query(min_length=1, max_length=1000)],
    *,
    since: _Time = None,
    until: _Time = None,
    batch: _Name = None,
    inbox: _Name = None,
    preset: _Name = None,
    channel: Annotated[int | None, Query(ge=0, le=255)] = None,
    speaker: Annotated[_Name, Query(description="A part of the name of who says it.")] = None,
    offset: Annotated[int, Query(ge=0, le=MOST, description="The `next` of the last page.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> Mapping[str, Any]:
    """Find segments with all words: `"a phrase"`, prefix `trans*`, excluded `-not`. `channel` 0 is left."""
    filters = SearchFilters(
        since=since,
        until=until,
        batch=batch,
        inbox=inbox,
        preset=preset,
        channel=channel,
        speaker=speaker,
    )
    hits = await parts.ledger.searches.read(
        search_text, q, limit=limit + 1, offset=offset, filters=filters
    )
    more = len(hits) > limit and offset + limit <= MOST
    return {
        "hits": [asdict(hit) for hit in hits[:limit]],
        "next": offset + limit if more else None,
    }
