"""Where words were said."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from speakeasyd.server.answers import Hits
from speakeasyd.server.parts import Lent

router = APIRouter(tags=["search"])


@router.get("/search", response_model=Hits)
async def search(
    parts: Lent,
    q: Annotated[str, Query(min_length=1, max_length=1000)],
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
) -> Mapping[str, Any]:
    """All of the words, in any order; `trans*` for a beginning."""
    return {"hits": [asdict(hit) for hit in await parts.ledger.search(q, limit=limit)]}
